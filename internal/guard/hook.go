package guard

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"

	"understudy/internal/model"
)

// ProbeUUID is of no VM: the start gate always refuses it, so that anybody can prove that the gate is there by a dry call.
const ProbeUUID = "75b05c1e-0000-4000-8000-67617465d06e"

// maxDomain bounds the domain XML that libvirt hands to a hook.
const maxDomain = 8 << 20

// Gated says that a call of libvirt's qemu hook is a start of any kind, so that the guard is asked.
func Gated(op, subop string) bool {
	return subop == "begin" && (op == "prepare" || op == "migrate" || op == "restore")
}

// Gate is the hook: nil lets libvirt go on. When the guard does not answer, VMs on the durable list are refused and all
// others pass; a list that cannot be read might hold any VM.
func Gate(ctx context.Context, c *Client, stateDir string, domain io.Reader) error {
	uuid, err := domainUUID(domain)
	if err == nil {
		err = c.MayStart(ctx, uuid)
		if err == nil || !Away(err) {
			return err
		}
	}
	list, listErr := Protected(stateDir)
	switch {
	case listErr != nil:
		return model.Fail(model.Refused, errors.Join(err, listErr), "nobody knows whether it is protected by understudy").
			WithVM(uuid).WithTry("systemctl status understudy-guard")
	case uuid == "" && len(list) > 0:
		return model.Fail(model.Refused, err, "a domain without a UUID may be one that is protected by understudy")
	case uuid == ProbeUUID || slices.ContainsFunc(list, func(u string) bool { return strings.EqualFold(u, uuid) }):
		return model.Fail(model.Refused, err, "it is protected by understudy, and without its guard nobody knows whether it may run here").
			WithVM(uuid).WithTry("systemctl start understudy-guard")
	}
	return nil
}

// domainUUID reads the domain's own UUID out of its XML, and no other that may be in it.
func domainUUID(r io.Reader) (string, error) {
	dec := xml.NewDecoder(io.LimitReader(r, maxDomain))
	depth := 0
	for {
		t, err := dec.Token()
		if err != nil {
			return "", model.Fail(model.InvalidArgument, err, "the domain's XML has no UUID")
		}
		switch t := t.(type) {
		case xml.StartElement:
			if depth == 1 && t.Name.Local == "uuid" {
				var text string
				if err := dec.DecodeElement(&text, &t); err != nil {
					return "", model.Fail(model.InvalidArgument, err, "the domain's UUID cannot be read")
				}
				return canonical(strings.TrimSpace(text))
			}
			depth++
		case xml.EndElement:
			depth--
		}
	}
}
