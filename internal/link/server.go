package link

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"understudy/internal/model"
)

// Store is where a session's bytes go.
type Store interface {
	Stage(ctx context.Context, spec model.StagingSpec) (Staging, error)
}

// Staging is the area of one point. A session calls Write, WriteZeroes, Ack and Finish one at a time; Digests beside them.
// Close comes last, when no call is under way.
type Staging interface {
	Seed() uint64
	Acked() map[string]int64
	Digests(ctx context.Context, target string, off int64, dst []model.Digest) error
	Write(ctx context.Context, target string, off int64, data []byte, digests []model.Digest) error
	WriteZeroes(ctx context.Context, target string, off, length int64) error
	Ack(ctx context.Context, target string, upTo int64) error
	Finish(ctx context.Context, target string) error
	Close() error
}

// PartsWriter is a Staging that takes the bytes of a Write as they came off the wire, in pieces.
type PartsWriter interface {
	WriteParts(ctx context.Context, target string, off int64, parts [][]byte, digests []model.Digest) error
}

// Admitter refuses generations that are over.
type Admitter interface {
	Admit(vm model.VMRef, g model.Generation) error
}

const (
	window       = 4 << 20 // of one stream, bytes
	bufferSize   = 256 << 10
	alivePeriod  = 2 * time.Second
	ackPeriod    = time.Second
	ackBytes     = 64 << 20
	pingAfter    = 5 * time.Second // of silence; the same time without an answer ends the connection
	maxStreams   = 16              // of one connection: a sender needs one
	maxHeader    = 64 << 10
	serviceName  = "understudy.Link"
	methodPing   = "Ping"
	methodStage  = "Stage"
	fullPing     = "/" + serviceName + "/" + methodPing
	fullStage    = "/" + serviceName + "/" + methodStage
	handshakeMax = 10 * time.Second
)

// Server receives replications on a standby.
type Server struct {
	store  Store
	floors Admitter
	self   model.HostID
	log    *slog.Logger
	grpc   *grpc.Server
	alive  time.Duration
	// responder answers questions that are not the link's; nil where nobody does.
	responder Responder

	helpers sync.WaitGroup // goroutines of sessions that may outlive their handler for a moment

	senders senders

	mu   sync.Mutex
	open map[string]*receiver // by UUID of the VM
}

// NewServer makes a server; Serve runs it. More options, for example credentials for TLS, may follow.
func NewServer(store Store, floors Admitter, self model.HostID, log *slog.Logger, opts ...grpc.ServerOption) *Server {
	s := &Server{store: store, floors: floors, self: self, log: log, alive: alivePeriod, open: map[string]*receiver{}}
	s.grpc = grpc.NewServer(append([]grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}), experimental.BufferPool(&buffers{}),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.MaxHeaderListSize(maxHeader),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(2 * window),
		grpc.ReadBufferSize(bufferSize), grpc.WriteBufferSize(32 << 10),
		grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(handshakeMax), grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingAfter}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter, PermitWithoutStream: true}),
	}, opts...)...)
	s.grpc.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*service)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: methodPing, Handler: pingHandler}, {MethodName: methodAsk, Handler: askHandler}},
		Streams:     []grpc.StreamDesc{{StreamName: methodStage, Handler: stageHandler, ServerStreams: true, ClientStreams: true}},
	}, s)
	return s
}

// Serve accepts connections until Stop; it then returns nil.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Stop ends all sessions, keeping what they staged, and returns when nothing of the server runs any more.
func (s *Server) Stop() {
	s.mu.Lock()
	for _, r := range s.open {
		r.end(model.Fail(model.LinkDown, nil, "the agent is stopping").WithHost(s.self))
	}
	s.mu.Unlock()
	s.grpc.Stop()
	s.helpers.Wait()
}

type service interface {
	ping(*frame) (*frame, error)
	ask(context.Context, *frame) (*frame, error)
	stage(grpc.ServerStream) error
}

var _ service = (*Server)(nil)

func pingHandler(srv any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	in := &frame{}
	if err := dec(in); err != nil {
		return nil, err
	}
	return srv.(service).ping(in)
}

func stageHandler(srv any, stream grpc.ServerStream) error { return srv.(service).stage(stream) }

func (s *Server) ping(in *frame) (*frame, error) {
	if in.kind() != framePing {
		return nil, status.Error(codes.InvalidArgument, errFrame.Error())
	}
	return &frame{body: append([]byte{byte(framePong)}, s.self...)}, nil
}

// stage serves one session.
func (s *Server) stage(stream grpc.ServerStream) error {
	spec, err := s.admit(stream)
	if err == nil {
		err = s.receive(stream, spec)
	}
	if err == nil {
		return nil
	}
	s.log.Info("a replication session ended", "vm", spec.VM.Name, "point", spec.PointRef.String(), "error", err)
	stream.SetTrailer(failureTrailer(err, spec.VM, s.self))
	return status.Error(codes.Aborted, clip(err.Error()))
}

func (s *Server) admit(stream grpc.ServerStream) (spec model.StagingSpec, err error) {
	if s.store == nil {
		return spec, model.Fail(model.Unsupported, nil, "this end receives no replicas")
	}
	f := &frame{}
	if err := stream.RecvMsg(f); err != nil {
		return spec, err
	}
	if spec, err = decodeOpen(f.body); err != nil {
		return spec, err
	}
	if err := checkSpec(spec); err != nil {
		return spec, err
	}
	if err := s.floors.Admit(spec.VM, spec.Generation); err != nil {
		return spec, err
	}
	spec.Sender, err = s.senders.check(stream.Context(), spec)
	return spec, err
}

func (s *Server) receive(stream grpc.ServerStream, spec model.StagingSpec) error {
	r := newReceiver(s, stream, spec)
	defer close(r.gone)
	defer r.end(context.Canceled)
	s.helpers.Go(r.write)
	if err := s.takeOver(r); err != nil {
		return err
	}
	defer s.leave(r)
	staging, err := s.store.Stage(r.ctx, spec)
	if err != nil {
		return r.why(err)
	}
	err = r.run(staging)
	if closeErr := staging.Close(); err == nil {
		err = closeErr
	}
	return err
}

// takeOver makes r the session of its VM. One that is open is ended first: its sender is dead, or it would not have been
// replaced. Only a sender of an older point is refused.
func (s *Server) takeOver(r *receiver) error {
	for {
		s.mu.Lock()
		old := s.open[r.spec.VM.UUID]
		if old == nil {
			s.open[r.spec.VM.UUID] = r
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		if r.spec.Generation == old.spec.Generation && r.spec.Seq < old.spec.Seq {
			return model.Fail(model.Conflict, nil, "point %s is being received, %s is older", old.spec.PointRef, r.spec.PointRef)
		}
		old.end(model.Fail(model.Conflict, nil, "another session of point %s has taken over", r.spec.PointRef))
		select {
		case <-old.gone:
		case <-r.ctx.Done():
			return r.why(r.ctx.Err())
		}
	}
}

func (s *Server) leave(r *receiver) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[r.spec.VM.UUID] == r {
		delete(s.open, r.spec.VM.UUID)
	}
}

// isEnd tells whether the sender said that it is done.
func isEnd(err error) bool { return err == io.EOF } //nolint:errorlint // gRPC promises the very value
