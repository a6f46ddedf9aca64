package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
	"go.temporal.io/server/common/authorization"
	clusterpkg "go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/temporal"
	pb "google.golang.org/protobuf/types/known/durationpb"

	"understudy/deploy/temporal/trust"
)

const (
	cluster  = "active"
	loopback = "127.0.0.1"
)

func durationpb(d time.Duration) *pb.Duration { return pb.New(d) }

// run serves until ctx ends.
func run(ctx context.Context, o options) error {
	db, err := openDatabase(ctx, o)
	if err != nil {
		return err
	}
	defer func() { _ = db.end() }()
	if err := db.ensureNamespace(o); err != nil {
		return fmt.Errorf("namespace %s: %w", o.namespace, err)
	}
	srv, err := newServer(o, db)
	if err != nil {
		return err
	}
	if err := srv.Start(); err != nil {
		return err
	}
	stopUI := startUI(o)
	fmt.Printf("Temporal at %s, namespace %s\n", o.frontend(), o.namespace)
	lost := db.hold(ctx)
	stopUI()
	return errors.Join(lost, srv.Stop())
}

func newServer(o options, db *database) (temporal.Server, error) {
	cfg := o.config(db)
	logger := log.NewZapLogger(log.BuildZapLogger(log.Config{Stdout: true, Level: o.logLevel}))
	guarded, err := guard(o, cfg, logger)
	if err != nil {
		return nil, err
	}
	hosts := map[primitives.ServiceName]static.Hosts{}
	for i, s := range services() {
		ip := loopback
		if i == 0 {
			ip = o.dialIP()
		}
		hosts[s] = static.SingleLocalHost(address(ip, o.port+i))
	}
	return temporal.NewServer(append(guarded,
		temporal.WithConfig(cfg),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithLogger(logger),
		temporal.WithDynamicConfigClient(dynamic()),
	)...)
}

// guard is who may do what: everybody everything without certificates.
func guard(o options, cfg *config.Config, logger log.Logger) ([]temporal.ServerOption, error) {
	if o.tlsDir == "" {
		authorizer, err := authorization.GetAuthorizerFromConfig(&cfg.Global.Authorization)
		if err != nil {
			return nil, err
		}
		mapper, err := authorization.GetClaimMapperFromConfig(&cfg.Global.Authorization, logger)
		if err != nil {
			return nil, err
		}
		return []temporal.ServerOption{
			temporal.WithAuthorizer(authorizer), temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return mapper }),
		}, nil
	}
	folder, err := trust.Open(o.tlsDir)
	if err != nil {
		return nil, err
	}
	if id := folder.Self(); id.Role != trust.Server {
		return nil, fmt.Errorf("%s holds the certificate of %s, not the server's", o.tlsDir, id)
	}
	seal, err := openSeal(o.sealFile())
	if err != nil {
		return nil, err
	}
	g := &gate{namespace: o.namespace, folder: folder, seal: seal}
	return []temporal.ServerOption{
		temporal.WithAuthorizer(g), temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return g }),
		temporal.WithTLSConfigFactory(secured{folder}), temporal.WithChainedFrontendGrpcInterceptors(seal.intercept),
	}, nil
}

// services in the order of their ports.
func services() []primitives.ServiceName {
	return []primitives.ServiceName{
		primitives.FrontendService, primitives.HistoryService, primitives.MatchingService, primitives.WorkerService,
	}
}

func (o options) config(db *database) *config.Config {
	cfg := &config.Config{
		Persistence: config.Persistence{
			DefaultStore: "main", VisibilityStore: "visibility", NumHistoryShards: db.shards,
			DataStores: map[string]config.DataStore{"main": {SQL: db.main}, "visibility": {SQL: db.visibility}},
		},
		ClusterMetadata: &clusterpkg.Config{
			FailoverVersionIncrement: 10, MasterClusterName: cluster, CurrentClusterName: cluster,
			ClusterInformation: map[string]clusterpkg.ClusterInformation{
				cluster: {Enabled: true, InitialFailoverVersion: 1, RPCAddress: o.frontend()},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Archival: config.Archival{
			History: config.HistoryArchival{State: "disabled"}, Visibility: config.VisibilityArchival{State: "disabled"},
		},
		NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
			History:    config.HistoryArchivalNamespaceDefaults{State: "disabled"},
			Visibility: config.VisibilityArchivalNamespaceDefaults{State: "disabled"},
		}},
		PublicClient: config.PublicClient{HostPort: o.frontend()},
		Services:     map[string]config.Service{},
	}
	for i, s := range services() {
		rpc := config.RPC{GRPCPort: o.port + i, BindOnLocalHost: true}
		if i == 0 {
			rpc.BindOnLocalHost, rpc.BindOnIP = false, o.ip
		}
		cfg.Services[string(s)] = config.Service{RPC: rpc}
	}
	return cfg
}

// dynamic settings for a small site: one task queue partition (nothing is gained by more), and no limit of the store's
// request rate below what it does anyway. A connection is asked often whether it lives: a poll of a host that was cut off stays
// until it is known to be dead, and takes a task that the host never sees; by default for a minute and a third, in which a failover
// waits for the answer.
func dynamic() dynamicconfig.Client {
	return dynamicconfig.StaticClient{
		dynamicconfig.MatchingNumTaskqueueReadPartitions.Key():           1,
		dynamicconfig.MatchingNumTaskqueueWritePartitions.Key():          1,
		dynamicconfig.ForceSearchAttributesCacheRefreshOnRead.Key():      true,
		dynamicconfig.FrontendPersistenceMaxQPS.Key():                    10000,
		dynamicconfig.HistoryPersistenceMaxQPS.Key():                     45000,
		dynamicconfig.FrontendMaxNamespaceVisibilityRPSPerInstance.Key(): 100,
		dynamicconfig.KeepAliveTime.Key():                                5 * time.Second,
		dynamicconfig.KeepAliveTimeout.Key():                             5 * time.Second,
	}
}

// dialIP is where the frontend is reached from this host.
func (o options) dialIP() string {
	if ip := net.ParseIP(o.ip); ip.IsUnspecified() {
		return loopback
	}
	return o.ip
}

func (o options) frontend() string { return address(o.dialIP(), o.port) }

func address(ip string, port int) string { return net.JoinHostPort(ip, strconv.Itoa(port)) }

// provider hands the UI its configuration.
type provider struct{ cfg *uiconfig.Config }

func (p provider) GetConfig() (*uiconfig.Config, error) { return p.cfg, nil }

// startUI serves the Web UI, which has no login of its own: who can reach the address can do everything. It returns what
// stops it.
func startUI(o options) func() {
	if o.headless {
		return func() {}
	}
	var secure uiconfig.TLS
	if o.tlsDir != "" {
		secure = uiTLS(o.tlsDir)
	}
	ui := uiserver.NewServer(uioptions.WithConfigProvider(provider{&uiconfig.Config{
		TLS: secure, Host: o.uiIP, Port: o.uiPort, TemporalGRPCAddress: o.frontend(), EnableUI: true, DefaultNamespace: o.namespace,
		DisableNewsFetch: true, HideLogs: true, CORS: uiconfig.CORS{CookieInsecure: true},
	}}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		// It ends the whole process when it cannot listen; the supervisor then starts us again.
		_ = ui.Start()
	}()
	return func() {
		ui.Stop()
		<-done
	}
}
