package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
)

// Role is what a certificate is for.
type Role string

const (
	Host     Role = "host"     // an agent
	Server   Role = "server"   // the control plane and its Temporal
	Operator Role = "operator" // a person or program that uses the command line
)

const scheme = "understudy"

// namePattern is that of a host id, also for operators: names become parts of URIs, queues and file names.
var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// Identity is whom a certificate speaks for.
type Identity struct {
	Role Role
	Name string // of the host or operator; empty for the server
}

func (i Identity) String() string { return i.URI().String() }

// URI is how the certificate names it: understudy://host/kvm1, understudy://server, understudy://operator/kim.
func (i Identity) URI() *url.URL {
	u := &url.URL{Scheme: scheme, Host: string(i.Role)}
	if i.Name != "" {
		u.Path = "/" + i.Name
	}
	return u
}

// Validate refuses what no certificate may say.
func (i Identity) Validate() error {
	switch i.Role {
	case Host, Operator:
		if !namePattern.MatchString(i.Name) {
			return fmt.Errorf("%q cannot name a %s: lower-case letters, digits, dots and dashes, at most 63", i.Name, i.Role)
		}
	case Server:
		if i.Name != "" {
			return fmt.Errorf("the server has no name, not %q", i.Name)
		}
	default:
		return fmt.Errorf("%q is no role: host, server or operator", i.Role)
	}
	return nil
}

// IdentityOf reads a certificate that was verified before. One that names two identities names none.
func IdentityOf(c *x509.Certificate) (Identity, error) {
	var found *Identity
	for _, u := range c.URIs {
		if u.Scheme != scheme {
			continue
		}
		i := Identity{Role: Role(u.Host)}
		if len(u.Path) > 1 {
			i.Name = u.Path[1:]
		}
		if found != nil || i.URI().String() != u.String() {
			return Identity{}, fmt.Errorf("the certificate's name %q cannot be understood", u)
		}
		if err := i.Validate(); err != nil {
			return Identity{}, err
		}
		found = &i
	}
	if found == nil {
		return Identity{}, errors.New("the certificate is not one of Understudy: it names no role")
	}
	return *found, nil
}
