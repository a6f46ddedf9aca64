package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"gopkg.in/yaml.v3"
)

// The compose file's environment, read as Temporal's image reads it, is the cluster that docs/INSTALL.md promises.
func TestTheComposeFileSetsWhatTemporalsImageReads(t *testing.T) {
	raw, err := os.ReadFile("../compose/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	given := map[string]string{"TEMPORAL_VERSION": "1.32.1", "TEMPORAL_IP": "10.0.0.6", "TEMPORAL_TLS_DIR": "/etc/understudy/temporal", "POSTGRES_PASSWORD": "5ecret"}
	text := regexp.MustCompile(`\$\{(\w+)(:\?[^}]*)?\}`).ReplaceAllStringFunc(string(raw), func(s string) string {
		name, _, _ := strings.Cut(strings.Trim(s, "${}"), ":")
		if given[name] == "" {
			t.Errorf("%s is not among the settings", name)
		}
		return given[name]
	})
	var file struct {
		Services map[string]struct {
			Image       string
			Environment map[string]string
			Volumes     []string
		}
	}
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	for name, value := range file.Services["temporal"].Environment {
		t.Setenv(name, value)
	}
	t.Setenv("BIND_ON_IP", "172.18.0.3") // as the image's entry point does
	cfg, err := config.Load(config.WithEmbedded())
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}

	password := file.Services["postgresql"].Environment["POSTGRES_PASSWORD"]
	for store, database := range map[string]string{cfg.Persistence.DefaultStore: "temporal", cfg.Persistence.VisibilityStore: "temporal_visibility"} {
		sql := cfg.Persistence.DataStores[store].SQL
		if sql == nil || sql.PluginName != "postgres12" || sql.ConnectAddr != "postgresql:5432" || sql.User != "temporal" || sql.Password != password || sql.DatabaseName != database {
			t.Errorf("%s: %+v", store, sql)
		}
	}
	tls := cfg.Global.TLS
	for name, server := range map[string]config.ServerTLS{"frontend": tls.Frontend.Server, "between services": tls.Internode.Server} {
		if !server.RequireClientAuth || server.CertFile != "/tls/tls.crt" || server.KeyFile != "/tls/tls.key" || !slices.Contains(server.ClientCAFiles, "/tls/ca.crt") {
			t.Errorf("%s: %+v", name, server)
		}
	}
	for name, client := range map[string]config.ClientTLS{"frontend": tls.Frontend.Client, "between services": tls.Internode.Client} {
		if client.ServerName != "temporal" || client.DisableHostVerification || !slices.Contains(client.RootCAFiles, "/tls/ca.crt") {
			t.Errorf("%s: %+v", name, client)
		}
	}
	if cfg.Persistence.NumHistoryShards != 512 || tls.RefreshInterval != time.Hour || cfg.Services["frontend"].RPC.BindOnIP != "172.18.0.3" {
		t.Errorf("%+v", cfg)
	}
	if !slices.ContainsFunc(file.Services["temporal"].Volumes, func(v string) bool {
		return strings.HasPrefix(v, "./dynamicconfig.yaml:"+cfg.DynamicConfigClient.Filepath+":")
	}) {
		t.Errorf("%s is mounted from nowhere", cfg.DynamicConfigClient.Filepath)
	}
	dynamic, err := os.ReadFile("../compose/dynamicconfig.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if r := dynamicconfig.LoadYamlFile(dynamic); len(r.Errors) > 0 || len(r.Warnings) > 0 {
		t.Errorf("%v, %v", r.Errors, r.Warnings)
	}
}
