package main

import (
	"crypto/tls"
	"path/filepath"
	"time"

	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	"go.temporal.io/server/common/rpc/encryption"

	"understudy/deploy/temporal/trust"
)

// secured gives Temporal its TLS: everybody of the site at the frontend, only the server itself behind it. Certificates are
// read again when their files change.
type secured struct{ folder *trust.Folder }

var _ encryption.TLSConfigProvider = secured{}

func (s secured) GetFrontendServerConfig() (*tls.Config, error) {
	return s.folder.Server(trust.Host, trust.Server, trust.Operator), nil
}

// GetFrontendClientConfig is of the system's own workers.
func (s secured) GetFrontendClientConfig() (*tls.Config, error) {
	return s.folder.Client("", trust.Server), nil
}

func (s secured) GetInternodeServerConfig() (*tls.Config, error) {
	return s.folder.Server(trust.Server), nil
}

func (s secured) GetInternodeClientConfig() (*tls.Config, error) {
	return s.folder.Client("", trust.Server), nil
}

func (secured) GetRemoteClusterClientConfig(string) (*tls.Config, error) { return nil, nil }

// GetExpiringCerts: `understudy server` tells of its folder itself.
func (secured) GetExpiringCerts(time.Duration) (expiring, expired encryption.CertExpirationMap, err error) {
	return nil, nil, nil
}

// uiTLS is how the Web UI reaches the frontend: as the server, whose certificate always names localhost.
func uiTLS(dir string) uiconfig.TLS {
	return uiconfig.TLS{
		CaFile: filepath.Join(dir, trust.AuthorityFile), CertFile: filepath.Join(dir, trust.CertificateFile), KeyFile: filepath.Join(dir, trust.KeyFile),
		EnableHostVerification: true, ServerName: "localhost",
	}
}
