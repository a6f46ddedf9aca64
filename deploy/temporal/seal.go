package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/server/common/authorization"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"understudy/deploy/temporal/trust"
)

const (
	sealField = 30731 // of the task token's message, which has no such field and ignores it
	keySize   = 32
)

// seal marks the tokens of the tasks that a host polled, so that no other host can answer them: a token says whose task it is
// nowhere, and anybody can make one. The key is kept, or answers to tasks under way would be refused after a restart.
type seal struct{ key []byte }

// openSeal reads the key or makes one; without a path it lasts as long as the process.
func openSeal(path string) (*seal, error) {
	if path != "" {
		key, err := os.ReadFile(path)
		if err == nil && len(key) == keySize {
			return &seal{key}, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	key := make([]byte, keySize)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	if path == "" {
		return &seal{key}, nil
	}
	// A key that was cut off by a power loss is made anew.
	return &seal{key}, os.WriteFile(path, key, 0o600)
}

func (s *seal) of(host string, token []byte) []byte {
	m := hmac.New(sha256.New, s.key)
	_, _ = m.Write([]byte(host + "\x00"))
	_, _ = m.Write(token)
	return m.Sum(nil)
}

// put adds the seal as a field of the token's message.
func (s *seal) put(host string, token []byte) []byte {
	out := protowire.AppendTag(append([]byte(nil), token...), sealField, protowire.BytesType)
	return protowire.AppendBytes(out, s.of(host, token))
}

// fits tells whether the token ends with the host's seal of what stands before.
func (s *seal) fits(host string, token []byte) bool {
	size := protowire.SizeTag(sealField) + protowire.SizeBytes(sha256.Size)
	if len(token) <= size {
		return false
	}
	return hmac.Equal(s.put(host, token[:len(token)-size]), token)
}

// intercept seals what a host is given. It runs behind the authorizer.
func (s *seal) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	out, err := handler(ctx, req)
	polled, ok := out.(*workflowservice.PollActivityTaskQueueResponse)
	if err != nil || !ok || len(polled.GetTaskToken()) == 0 {
		return out, err
	}
	if claims, ok := ctx.Value(authorization.MappedClaims).(*authorization.Claims); ok {
		if id, ok := claims.Extensions.(trust.Identity); ok && id.Role == trust.Host {
			polled.TaskToken = s.put(id.Name, polled.GetTaskToken())
		}
	}
	return out, err
}
