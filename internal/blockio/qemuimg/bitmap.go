package qemuimg

import (
	"context"
	"encoding/json"
	"fmt"
)

// Bitmaps lists the names of the persistent dirty bitmaps in the qcow2 image at path, usable or not. The image may be in use.
func (t Tool) Bitmaps(ctx context.Context, path string) ([]string, error) {
	if err := absolute(path); err != nil {
		return nil, err
	}
	out, err := t.run(ctx, "info", "-U", "-f", "qcow2", "--output=json", "--", path)
	if err != nil {
		return nil, err
	}
	var info struct {
		Specific struct {
			Data struct {
				Bitmaps []struct {
					Name string `json:"name"`
				} `json:"bitmaps"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return nil, fmt.Errorf("qemuimg: info of %s: %w", path, err)
	}
	var names []string
	for _, b := range info.Specific.Data.Bitmaps {
		names = append(names, b.Name)
	}
	return names, nil
}

// RemoveBitmap takes a bitmap out of the qcow2 image at path, also one that a crash left in use. No other process may have
// the image open (ErrLocked).
func (t Tool) RemoveBitmap(ctx context.Context, path, name string) error {
	if err := absolute(path); err != nil {
		return err
	}
	_, err := t.run(ctx, "bitmap", "--remove", "-f", "qcow2", "--", path, name)
	return err
}
