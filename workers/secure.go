package workers

import (
	"context"
	"crypto/tls"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"understudy/internal/link"
	"understudy/internal/model"
	"understudy/internal/trust"
)

// Secure opens the folder of --tls-dir, whose certificate must be that of who. Without a folder everything is in plain text
// and anybody on the network is believed, which is said aloud.
func Secure(dir string, who trust.Identity, log *slog.Logger) (*trust.Folder, error) {
	if dir == "" {
		log.Warn("no_tls", "meaning", "whoever reaches the ports of this process can read replicas, forge leases and give orders: keep them on a network of their own, or give --tls-dir")
		return nil, nil
	}
	f, err := trust.Open(dir)
	if err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "the certificates in %s cannot be used", dir).
			WithTry("understudy join --tls-dir " + dir + ", or understudy ca issue --out " + dir)
	}
	if f.Self() != who {
		return nil, model.Fail(model.InvalidArgument, nil, "the certificate in %s is that of %s, this is %s", dir, f.Self(), who).
			WithTry("understudy ca show " + dir)
	}
	return f, nil
}

// ToServer is for connections to Temporal; nil stands for plain text.
func ToServer(f *trust.Folder, address string) *tls.Config {
	if f == nil {
		return nil
	}
	return f.Client(address, trust.Server)
}

// LinkServer is how a receiver or grantor listens: to hosts alone.
func LinkServer(f *trust.Folder) []grpc.ServerOption {
	if f == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.Creds(credentials.NewTLS(f.Server(trust.Host)))}
}

// DialLink connects to another agent, or to the server's grantor.
func DialLink(ctx context.Context, f *trust.Folder, address string) (*link.Client, error) {
	if f == nil {
		return link.Dial(ctx, address)
	}
	return link.Dial(ctx, address, grpc.WithTransportCredentials(credentials.NewTLS(f.Client(address, trust.Host, trust.Server))))
}
