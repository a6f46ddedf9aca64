package libvirtrpc

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"
)

// maxNetworks bounds the answer of libvirtd.
const maxNetworks = 4096

// Networks implements hypervisor.Hypervisor.
func (c *Client) Networks(ctx context.Context) ([]string, error) {
	return call(ctx, c, "listing networks", func(l *libvirt.Libvirt) ([]string, error) {
		nets, _, err := l.ConnectListAllNetworks(maxNetworks, libvirt.ConnectListNetworksActive)
		if err != nil {
			return nil, err
		}
		names := make([]string, 0, len(nets))
		for _, n := range nets {
			names = append(names, n.Name)
		}
		return names, nil
	})
}
