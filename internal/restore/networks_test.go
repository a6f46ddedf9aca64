package restore_test

import (
	"strings"
	"testing"

	"github.com/beevik/etree"
	"github.com/stretchr/testify/require"

	"understudy/internal/model"
)

const nics = `<interface type='network'><mac address='52:54:00:00:00:01'/><source network='prod' portid='a-b' bridge='virbr7'/><model type='virtio'/></interface>
<interface type='bridge'><source bridge='br-prod'/></interface><interface type='user'/>`

func TestAStartConnectsTheVMToTheNetworksOfThisHost(t *testing.T) {
	h := newHost(t)
	h.store.point.DomainXML = description(nics)
	_, err := h.restorer().Start(ctx, vm, ref, 2, map[string]string{"prod": "prod-b", "br0": "lo", "br-prod": "lo", "unused": "x"})
	require.NoError(t, err)
	xml, err := h.hv.XML(ctx, vm.UUID)
	require.NoError(t, err)
	doc := etree.NewDocument()
	require.NoError(t, doc.ReadFromString(xml))
	net := doc.FindElement("//interface[@type='network']")
	require.Equal(t, "prod-b", net.SelectElement("source").SelectAttrValue("network", ""))
	require.Empty(t, net.SelectElement("source").SelectAttrValue("portid", ""), "that was of the other host")
	require.Empty(t, net.SelectElement("source").SelectAttrValue("bridge", ""))
	require.Equal(t, "52:54:00:00:00:01", net.SelectElement("mac").SelectAttrValue("address", ""), "the guest finds its card again")
	require.Equal(t, "lo", doc.FindElements("//interface[@type='bridge']/source")[1].SelectAttrValue("bridge", ""))
	require.NotNil(t, doc.FindElement("//interface[@type='user']"))
}

func TestWhatAPointNeedsIsLookedForBeforeAnythingIsClaimed(t *testing.T) {
	h := newHost(t)
	h.store.point.DomainXML = description(nics)
	fit := func(networks map[string]string) ([]string, error) { return h.restorer().Fit(ctx, vm, ref, networks) }
	here := map[string]string{"br0": "lo"}
	_, err := fit(here)
	require.Equal(t, model.Refused, model.KindOf(err))
	require.Contains(t, err.Error(), "active network prod")

	h.hv.SetNetworks("prod")
	_, err = fit(here)
	require.ErrorContains(t, err, "bridge br-prod")

	here["br-prod"] = "lo"
	notes, err := fit(here)
	require.NoError(t, err)
	require.Contains(t, strings.Join(notes, "; "), "bridge lo here, not on br-prod")
	require.Empty(t, h.store.active, "nothing was made")
	_, err = h.hv.Domain(ctx, vm.UUID)
	require.Equal(t, model.NotFound, model.KindOf(err))

	h.store.point.DomainXML = description(`<emulator>/no/such/emulator</emulator>`)
	notes, err = fit(here)
	require.NoError(t, err)
	require.Contains(t, strings.Join(notes, "; "), "the emulator")
}
