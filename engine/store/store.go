// Package store is how the nodes of an environment hand things to each other: a small map from keys to values, with
// versions. What lies in it is signed by who made it and sealed to those it is for, so a store is trusted with nothing:
// whoever can read it learns no secret, whoever can write to it can only withhold. Package bundle does the signing and
// the sealing; this one only keeps bytes.
//
// There are three: a folder (Dir), a table in the environment's own PostgreSQL (Postgres), and etcd (Etcd). One
// conformance suite holds for all of them.
package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// A Version is the version of one entry: 0 where nothing is, and another number after each write. Versions of one key
// grow; two keys' versions have nothing to do with each other.
type Version int64

// An Entry is what stands at a key.
type Entry struct {
	Value   []byte
	Version Version
}

// A Key is a key with the version of its entry.
type Key struct {
	Name    string
	Version Version
}

// A Store keeps entries. All of its methods may be called by several goroutines at once. A method ends when its context
// does, at the latest. The error of a store that cannot be reached, is too slow, full, read-only or damaged wraps
// ErrUnavailable: what it holds is not known then.
type Store interface {
	// Get returns the entry at key. The error for nothing wraps ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)

	// Create puts the first entry at key. The error wraps ErrExists when there is one already: of many who create at
	// once, one succeeds.
	Create(ctx context.Context, key string, value []byte) (Version, error)

	// Swap puts another entry at key, if the one there still has the version old. The error wraps ErrChanged when it has
	// not: of many who swap at once, one succeeds.
	Swap(ctx context.Context, key string, old Version, value []byte) (Version, error)

	// List returns the keys that begin with prefix, sorted, without their values. The prefix is a whole part of a key
	// with its slash, such as "node/", or "" for all of them.
	List(ctx context.Context, prefix string) ([]Key, error)

	// Watch returns nil as soon as the entry at key has another version than known, which may be at once. It returns the
	// context's error when that ends first.
	Watch(ctx context.Context, key string, known Version) error

	// String names the store for people: "the folder /db/converge".
	String() string

	// Close lets go of connections.
	Close() error
}

// Why a store did not do what it was asked. After an error that wraps ErrUnavailable a write may have been done, or not.
var (
	ErrNotFound    = errors.New("there is nothing at this key")
	ErrExists      = errors.New("another node has written it first")
	ErrChanged     = errors.New("it was changed meanwhile by another node")
	ErrUnavailable = errors.New("the store cannot be used")
	ErrNotMade     = errors.New("there is no store here") // comes with ErrUnavailable: not mounted, or never made
)

// MaxValue is the largest value, in bytes: etcd takes no more than 1.5 MiB in a request.
const MaxValue = 1 << 20

// maxKey is the longest key, in bytes, and maxPart the longest part of one: a file's name (NAME_MAX).
const (
	maxKey  = 512
	maxPart = 255
)

// CheckKey says why a key is refused, or returns nil: it has parts of letters, digits, ".", "_" and "-", divided by
// slashes, and no part is empty, begins with a dot or has more than 255 bytes.
func CheckKey(key string) error {
	if len(key) > maxKey {
		return fmt.Errorf("a key has at most %d bytes, and this one has %d", maxKey, len(key))
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part[0] == '.' || len(part) > maxPart || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
			return fmt.Errorf("%q is no key", key)
		}
	}
	return nil
}
