package fake

import (
	"context"
	"slices"
)

// SetNetworks says which networks are active; none until then.
func (h *Hypervisor) SetNetworks(names ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.networks = names
}

// Networks implements hypervisor.Hypervisor.
func (h *Hypervisor) Networks(ctx context.Context) ([]string, error) {
	if err := h.enter(ctx, "Networks", ""); err != nil {
		return nil, err
	}
	defer h.mu.Unlock()
	return slices.Clone(h.networks), nil
}
