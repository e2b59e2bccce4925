package pki

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/asn1"
	"fmt"
	"unicode/utf16"
)

// PKCS12Password opens the files that PKCS12 makes. It is no secret and protects nothing: it is here because readers
// want one, Java's PKCS12 key store for a private key among them. What protects the file is its mode, as with a PEM key. It
// is the password that Java's own tools begin with.
const PKCS12Password = "changeit"

// pkcs12Alias names the entry. The JDBC driver looks for a key of this name and for no other.
const pkcs12Alias = "user"

// Rounds of the two key derivations. More of them would slow down who has the password, and everybody has it.
const pkcs12Rounds = 2048

// PKCS12 puts a key, its certificate and the certificates above it into one file (RFC 7292), opened with PKCS12Password:
// the key encrypted with AES-256 (PBES2), the certificates readable, and a check sum with HMAC-SHA-256, which OpenSSL
// from 1.1 on and Java from 8u301 on read.
//
// The same key and certificates always give the same bytes: salts are drawn from them. So a file can be compared with
// what it should be, and one that is right is never written anew.
func PKCS12(key PrivateKey, cert Certificate, above ...Certificate) ([]byte, error) {
	if !key.Matches(cert) {
		return nil, fmt.Errorf("make a PKCS#12 file: the key is not the certificate's")
	}
	seed := sha256.New()
	seed.Write(key.DER())
	for _, c := range append([]Certificate{cert}, above...) {
		seed.Write(c.Raw)
	}
	m := &pkcs12Maker{seed: seed.Sum(nil)}
	content := m.file(key.DER(), cert, above)
	if m.err != nil {
		return nil, fmt.Errorf("make a PKCS#12 file: %w", m.err)
	}
	return content, nil
}

// A pkcs12Maker keeps the first error.
type pkcs12Maker struct {
	seed []byte
	err  error
}

// salt is n bytes, at most 32, that depend on the content and on what they are for.
func (m *pkcs12Maker) salt(what string, n int) []byte {
	mac := hmac.New(sha256.New, m.seed)
	mac.Write([]byte(what))
	return mac.Sum(nil)[:n]
}

func (m *pkcs12Maker) der(v any) []byte {
	b, err := asn1.Marshal(v)
	if err != nil && m.err == nil {
		m.err = err
	}
	return b
}

// Object identifiers of RFC 7292, 8018 and 5652.
var (
	oidData         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidShroudedKey  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 2}
	oidCertBag      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 3}
	oidX509         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 22, 1}
	oidFriendlyName = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 20}
	oidLocalKeyID   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 21}
	oidPBES2        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidHMACWithSHA  = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidAES256CBC    = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
	oidSHA256       = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	asn1Null        = asn1.RawValue{Tag: asn1.TagNull}
)

const (
	pkcs12Version    = 3
	pkcs12KeyPurpose = byte(3) // of the derivation: a key for a MAC
)

type (
	pkcs12Algorithm struct {
		Algorithm  asn1.ObjectIdentifier
		Parameters any
	}
	pkcs12Content struct {
		Type    asn1.ObjectIdentifier
		Content any `asn1:"explicit,tag:0"`
	}
	pkcs12Bag struct {
		ID         asn1.ObjectIdentifier
		Value      any               `asn1:"explicit,tag:0"`
		Attributes []pkcs12Attribute `asn1:"set,omitempty"`
	}
	pkcs12Attribute struct {
		ID     asn1.ObjectIdentifier
		Values []any `asn1:"set"`
	}
	pkcs12EncryptedKey struct {
		Algorithm pkcs12Algorithm
		Encrypted []byte
	}
	pkcs12PBES2  struct{ Derivation, Encryption pkcs12Algorithm }
	pkcs12PBKDF2 struct {
		Salt   []byte
		Rounds int
		PRF    pkcs12Algorithm
	}
	pkcs12Digest struct {
		Algorithm pkcs12Algorithm
		Digest    []byte
	}
	pkcs12MAC struct {
		Digest pkcs12Digest
		Salt   []byte
		Rounds int
	}
	pkcs12File struct {
		Version int
		Safe    pkcs12Content
		MAC     pkcs12MAC
	}
)

// file is the whole of it: the certificates, the key, and the check sum over both.
func (m *pkcs12Maker) file(key []byte, cert Certificate, above []Certificate) []byte {
	id := pkcs12Attribute{oidLocalKeyID, []any{m.salt("id", 20)}}
	name := pkcs12Attribute{oidFriendlyName, []any{bmpString(pkcs12Alias)}}
	certs := []pkcs12Bag{m.certBag(cert, name, id)}
	for _, c := range above {
		certs = append(certs, m.certBag(c))
	}
	keys := []pkcs12Bag{{oidShroudedKey, m.encrypted(key), []pkcs12Attribute{name, id}}}
	safe := m.der([]pkcs12Content{{oidData, m.der(certs)}, {oidData, m.der(keys)}})
	return m.der(pkcs12File{pkcs12Version, pkcs12Content{oidData, safe}, m.mac(safe)})
}

func (m *pkcs12Maker) certBag(c Certificate, attributes ...pkcs12Attribute) pkcs12Bag {
	return pkcs12Bag{oidCertBag, pkcs12Content{oidX509, c.Raw}, attributes}
}

// encrypted is the key under the password: PBKDF2 and AES-256 in CBC mode (RFC 8018).
func (m *pkcs12Maker) encrypted(key []byte) pkcs12EncryptedKey {
	salt, iv := m.salt("salt of the key", 16), m.salt("start of the key", aes.BlockSize)
	secret, err := pbkdf2.Key(sha256.New, PKCS12Password, salt, pkcs12Rounds, 32)
	if err != nil {
		m.err = err
		return pkcs12EncryptedKey{}
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		m.err = err
		return pkcs12EncryptedKey{}
	}
	padding := aes.BlockSize - len(key)%aes.BlockSize
	sealed := append([]byte{}, key...)
	for range padding {
		sealed = append(sealed, byte(padding))
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(sealed, sealed)
	return pkcs12EncryptedKey{
		pkcs12Algorithm{oidPBES2, pkcs12PBES2{
			pkcs12Algorithm{oidPBKDF2, pkcs12PBKDF2{salt, pkcs12Rounds, pkcs12Algorithm{oidHMACWithSHA, asn1Null}}},
			pkcs12Algorithm{oidAES256CBC, iv},
		}},
		sealed,
	}
}

// mac is the check sum that tells a damaged file, or a wrong password (RFC 7292, 4 and appendix B).
func (m *pkcs12Maker) mac(safe []byte) pkcs12MAC {
	salt := m.salt("salt of the sum", 16)
	sum := hmac.New(sha256.New, pkcs12MACKey(salt))
	sum.Write(safe)
	return pkcs12MAC{pkcs12Digest{pkcs12Algorithm{oidSHA256, asn1Null}, sum.Sum(nil)}, salt, pkcs12Rounds}
}

// pkcs12MACKey derives the key of the check sum (RFC 7292, B.2). It is one block of SHA-256 long, so the part of the
// derivation that makes further blocks is not needed.
func pkcs12MACKey(salt []byte) []byte {
	var text []byte
	for range sha256.BlockSize {
		text = append(text, pkcs12KeyPurpose)
	}
	password := append(bmpBytes(PKCS12Password), 0, 0)
	text = append(text, filled(salt)...)
	text = append(text, filled(password)...)
	sum := sha256.Sum256(text)
	for range pkcs12Rounds - 1 {
		sum = sha256.Sum256(sum[:])
	}
	return sum[:]
}

// filled repeats b until whole blocks of the hash are full.
func filled(b []byte) []byte {
	length := (len(b) + sha256.BlockSize - 1) / sha256.BlockSize * sha256.BlockSize
	out := make([]byte, length)
	for i := range out {
		out[i] = b[i%len(b)]
	}
	return out
}

func bmpString(text string) asn1.RawValue {
	return asn1.RawValue{Tag: asn1.TagBMPString, Bytes: bmpBytes(text)}
}

func bmpBytes(text string) []byte {
	var out []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		out = append(out, byte(unit>>8), byte(unit))
	}
	return out
}
