package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"understudy/internal/durable"
	"understudy/internal/model"
)

// NewKey makes the key of a folder, which is private. A key that is there is used again: a join whose answer was lost is
// repeated with it.
func NewKey(dir string) (crypto.Signer, error) {
	if err := privateFolder(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, KeyFile)
	key, err := readKey(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return fresh, writeKey(path, fresh)
}

// Install puts a certificate and its authority beside the key. Each file is replaced as a whole; the key stays, so that
// there is no moment at which key and certificate do not fit.
func Install(dir string, authority, certificate []byte) error {
	if err := durable.WriteFile(filepath.Join(dir, AuthorityFile), authority); err != nil {
		return model.Fail(model.Internal, err, "the authority's certificate cannot be written")
	}
	if err := durable.WriteFile(filepath.Join(dir, CertificateFile), certificate); err != nil {
		return model.Fail(model.Internal, err, "the certificate cannot be written")
	}
	return nil
}

// Request asks for a certificate: it proves that the key is ours. Nothing else in it is believed.
func Request(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// ParseRequest returns the key that a request proves to hold.
func ParseRequest(p []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(p)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		return nil, model.Fail(model.InvalidArgument, nil, "this is no request for a certificate")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		return nil, model.Fail(model.InvalidArgument, err, "the request for a certificate is not sound")
	}
	return r.PublicKey, checkPublic(r.PublicKey)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func readKey(path string) (crypto.Signer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, model.Fail(model.NotFound, err, "there is no key in %s", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, model.Fail(model.Refused, nil, "%s can be read by others (mode %04o)", path, info.Mode().Perm()).WithTry("chmod 0600 " + path)
	}
	p, err := readFile(path)
	if err != nil {
		return nil, model.Fail(model.Internal, err, "%s cannot be read", path)
	}
	block, _ := pem.Decode(p)
	if block == nil {
		return nil, model.Fail(model.Refused, nil, "%s is not a key", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, model.Fail(model.Refused, err, "%s is damaged", path)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, model.Fail(model.Refused, nil, "%s is a key that cannot sign", path)
	}
	return key, nil
}

// privateFolder is closed to others also when somebody else made it.
func privateFolder(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.Chmod(dir, 0o700)
	}
	if err != nil {
		return model.Fail(model.Internal, err, "cannot make the folder %s", dir)
	}
	return nil
}
