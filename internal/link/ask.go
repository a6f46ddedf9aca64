package link

import (
	"context"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"understudy/internal/model"
)

const (
	methodAsk = "Ask"
	fullAsk   = "/" + serviceName + "/" + methodAsk
	// maxAsk bounds a question and its answer.
	maxAsk = maxMessage - 1
)

// Responder answers a small question that is no business of the link itself: a renewal of leases. It is called by many at
// once. An error of it reaches the asker as the kind that it has.
type Responder func(ctx context.Context, question []byte) ([]byte, error)

// Respond makes the server answer questions; it is called before Serve.
func (s *Server) Respond(r Responder) { s.responder = r }

// NewResponder makes a server that answers questions and receives no replicas: the control plane's grantor.
func NewResponder(r Responder, log *slog.Logger, opts ...grpc.ServerOption) *Server {
	s := NewServer(nil, nil, "", log, opts...)
	s.responder = r
	return s
}

func askHandler(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	in := &frame{}
	if err := dec(in); err != nil {
		return nil, err
	}
	return srv.(service).ask(ctx, in)
}

func (s *Server) ask(ctx context.Context, in *frame) (*frame, error) {
	switch {
	case in.kind() != frameAsk || len(in.body) > maxAsk:
		return nil, status.Error(codes.InvalidArgument, errFrame.Error())
	case s.responder == nil:
		return nil, status.Error(codes.Unimplemented, "this end answers no questions")
	}
	answer, err := s.responder(ctx, in.body[1:])
	if err != nil {
		_ = grpc.SetTrailer(ctx, failureTrailer(err, model.VMRef{}, s.self))
		return nil, status.Error(codes.Aborted, clip(err.Error()))
	}
	return &frame{body: append([]byte{byte(frameAnswer)}, answer...)}, nil
}

// Ask sends a question and returns the answer.
func (c *Client) Ask(ctx context.Context, question []byte) ([]byte, error) {
	const what = "asking"
	if len(question) > maxAsk {
		return nil, model.Fail(model.InvalidArgument, nil, "a question of %d bytes", len(question))
	}
	var md metadata.MD
	out := &frame{}
	if err := c.conn.Invoke(ctx, fullAsk, &frame{body: append([]byte{byte(frameAsk)}, question...)}, out, grpc.Trailer(&md)); err != nil {
		return nil, fromStatus(ctx, err, md, c.address, what)
	}
	if out.kind() != frameAnswer {
		return nil, down(errFrame, c.address, what)
	}
	return out.body[1:], nil
}
