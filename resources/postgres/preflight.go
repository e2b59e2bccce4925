package postgres

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A Problem is something on the disk that keeps a server from taking its files at a reload or from starting.
type Problem struct {
	Path   string
	Line   int // 0 when it is not about a line
	Text   string
	Remedy string // "" when there is no safe one to give
}

func (p Problem) String() string {
	text := p.Path
	if p.Line > 0 {
		text += " line " + strconv.Itoa(p.Line)
	}
	text += ": " + p.Text
	if p.Remedy != "" {
		text += " (" + p.Remedy + ")"
	}
	return text
}

// Preflight finds what would keep the server from starting with the files as they stand, or as they are staged:
// lines of postgresql.conf that it cannot read, TLS settings that its version does not have, and, while ssl is on, a key
// that does not fit its certificate or that the server may not read, a missing or empty CA or CRL. It needs no server and
// no child; TryStart is the exact judge.
func (s *Server) Preflight(files Files) ([]Problem, error) {
	conf, err := s.Conf(files)
	if err != nil {
		return nil, err
	}
	c := checker{files: files, server: s, conf: conf}
	for _, e := range conf.Errors {
		c.add(Problem{e.File, e.Line, e.Problem, ""})
	}
	for _, set := range conf.Settings {
		if exists, known := SettingExists(s.Major, set.Name); known && !exists {
			c.add(Problem{set.File, set.Line, fmt.Sprintf("PostgreSQL %d does not know %s: it would refuse the whole file", s.Major, set.Name), "remove the line"})
		}
	}
	ssl, ok := parseBool(conf.Value("ssl", "off"))
	if !ok {
		set, _ := conf.Get("ssl")
		c.add(Problem{set.File, set.Line, "ssl is neither on nor off", ""})
	}
	if ssl {
		c.tls()
	}
	return c.problems, nil
}

type checker struct {
	files    Files
	server   *Server
	conf     *Conf
	problems []Problem
}

func (c *checker) add(p Problem) { c.problems = append(c.problems, p) }

// file returns the path that a setting names, or "" for none.
func (c *checker) file(setting, otherwise string) string {
	return c.server.Path(c.conf.Value(setting, otherwise))
}

func (c *checker) tls() {
	certFile, keyFile := c.file("ssl_cert_file", "server.crt"), c.file("ssl_key_file", "server.key")
	cert := c.certificates(certFile, "ssl_cert_file")
	key, keyKnown := c.key(keyFile)
	if len(cert) > 0 && keyKnown && !samePublicKey(cert[0].PublicKey, key) {
		c.add(Problem{Path: keyFile, Text: "the key does not belong to the certificate " + certFile, Remedy: "put the certificate's own key there"})
	}
	if ca := c.file("ssl_ca_file", ""); ca != "" {
		c.certificates(ca, "ssl_ca_file")
	}
	if crl := c.file("ssl_crl_file", ""); crl != "" {
		c.crl(crl)
	}
}

// read returns the content of a file that the server has to be able to read.
func (c *checker) read(file, setting string) ([]byte, bool) {
	content, err := c.files.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.add(Problem{Path: file, Text: "the file of " + setting + " does not exist"})
		return nil, false
	case err != nil:
		c.add(Problem{Path: file, Text: fmt.Sprintf("the file of %s cannot be read: %v", setting, cause(err))})
		return nil, false
	}
	if why := c.closed(file); why != "" {
		c.add(Problem{Path: file, Text: fmt.Sprintf("the server runs as %s, which cannot read the file of %s: %s", c.server.Owner.Name, setting, why)})
	}
	return content, true
}

// closed says what keeps the server's owner from reading a file, or "".
func (c *checker) closed(file string) string {
	for dir := path.Dir(file); ; dir = path.Dir(dir) {
		if info, err := c.files.Stat(dir); err == nil && !c.may(info, 0o1) {
			return fmt.Sprintf("the directory %s (%04o) is closed to it", dir, info.Mode)
		}
		if dir == "/" || dir == "." {
			break
		}
	}
	if info, err := c.files.Stat(file); err == nil && !c.may(info, 0o4) {
		return fmt.Sprintf("its mode is %04o, its owner %d and its group %d", info.Mode, info.UID, info.GID)
	}
	return ""
}

// may says whether the server's owner has a right (of r=4, w=2, x=1) on something.
func (c *checker) may(info FileInfo, right fs.FileMode) bool {
	o := c.server.Owner
	switch {
	case o.UID == 0:
		return true
	case info.UID == o.UID:
		return info.Mode>>6&right == right
	case c.inGroup(info.GID):
		return info.Mode>>3&right == right
	}
	return info.Mode&right == right
}

// inGroup says whether the server's owner is in a group.
func (c *checker) inGroup(gid int) bool {
	if gid == c.server.Owner.GID {
		return true
	}
	content, err := c.files.ReadFile("/etc/group")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(content)) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) == 4 && f[2] == strconv.Itoa(gid) && slices.Contains(strings.Split(f[3], ","), c.server.Owner.Name) {
			return true
		}
	}
	return false
}

func (c *checker) certificates(file, setting string) []*x509.Certificate {
	content, ok := c.read(file, setting)
	if !ok {
		return nil
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" && block.Type != "TRUSTED CERTIFICATE" && block.Type != "X509 CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			c.add(Problem{Path: file, Text: fmt.Sprintf("certificate %d in it cannot be read: %v", len(out)+1, err)})
			return nil
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		c.add(Problem{Path: file, Text: "there is no certificate in the file of " + setting})
	}
	return out
}

// key reads the server's key and judges its mode and owner by the rules of check_ssl_key_file_permissions. Of a key that
// only OpenSSL can read, with a passphrase or of a rare kind, nothing is known.
func (c *checker) key(file string) (public crypto.PublicKey, known bool) {
	content, ok := c.read(file, "ssl_key_file")
	if !ok {
		return nil, false
	}
	if info, err := c.files.Stat(file); err == nil {
		c.keyMode(file, info)
	}
	block := keyBlock(content)
	if block == nil {
		c.add(Problem{Path: file, Text: "there is no private key in it"})
		return nil, false
	}
	key, err := parseKey(block)
	if err != nil {
		return nil, false
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, false
	}
	return signer.Public(), true
}

func (c *checker) keyMode(file string, info FileInfo) {
	o := c.server.Owner
	switch {
	case info.UID != o.UID && info.UID != 0:
		c.add(Problem{Path: file, Text: fmt.Sprintf("it belongs to user %d: the server takes a key of %s or of root only", info.UID, o.Name),
			Remedy: fmt.Sprintf("chown %s %s", o.Name, file)})
	case info.UID == o.UID && info.Mode&0o077 != 0:
		c.add(Problem{Path: file, Text: fmt.Sprintf("its mode is %04o: the server takes its own key only when nobody else may read it", info.Mode), Remedy: "chmod 0600 " + file})
	case info.UID != o.UID && info.Mode&0o037 != 0:
		c.add(Problem{Path: file, Text: fmt.Sprintf("its mode is %04o: the server takes a key of root's with at most 0640", info.Mode), Remedy: "chmod 0640 " + file})
	}
}

func keyBlock(content []byte) *pem.Block {
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "PRIVATE KEY" || strings.HasSuffix(block.Type, " PRIVATE KEY") {
			return block
		}
	}
	return nil
}

func parseKey(block *pem.Block) (any, error) {
	switch block.Type {
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	}
	return x509.ParsePKCS8PrivateKey(block.Bytes)
}

func samePublicKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

func (c *checker) crl(file string) {
	content, ok := c.read(file, "ssl_crl_file")
	if !ok {
		return
	}
	if !bytes.Contains(content, []byte("-----BEGIN X509 CRL-----")) {
		c.add(Problem{Path: file, Text: "there is no revocation list in PEM in the file of ssl_crl_file: the server would refuse an empty one"})
	}
}
