package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// pollEvery is how often a watch looks where nothing can wake it: a folder on another machine tells of no change
// (inotify(7)), and a standby takes no LISTEN.
const pollEvery = 500 * time.Millisecond

// errClosed is why a store that was closed does nothing.
var errClosed = errors.New("it is closed")

// An unusable is an error that wraps ErrUnavailable: which store, why not, and what to do where that is known. It has no
// secret in it: what a driver says goes through causes of our own.
type unusable struct {
	store, cause, remedy string
	err                  error // what it comes from, for errors.Is; nil when that must not be shown
}

func (u *unusable) Error() string {
	text := u.store + ": " + u.cause
	if u.remedy != "" {
		text += ": " + u.remedy
	}
	return text
}

func (u *unusable) Unwrap() []error {
	if u.err == nil {
		return []error{ErrUnavailable}
	}
	return []error{ErrUnavailable, u.err}
}

// ended says in words why a context is over.
func ended(err error) string {
	if errors.Is(err, context.Canceled) {
		return "the call was broken off"
	}
	return "it did not answer in time"
}

// checkPut says why value is not put at key, or returns nil.
func checkPut(key string, value []byte) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if len(value) > MaxValue {
		return fmt.Errorf("%s: a value has at most %d bytes, and this one has %d", key, MaxValue, len(value))
	}
	return nil
}

// checkPrefix says why List refuses prefix, or returns nil: half a part of a key would list "nodes/x" for "node".
func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	whole, slash := strings.CutSuffix(prefix, "/")
	if !slash || CheckKey(whole) != nil {
		return fmt.Errorf("%q is no prefix: it is a whole part of a key with its slash, such as \"node/\"", prefix)
	}
	return nil
}

// at names a key in a store in front of why: one of ErrNotFound, ErrExists and ErrChanged.
func at(s Store, key string, why error) error {
	return fmt.Errorf("%s: %s: %w", s, key, why)
}

// poll looks at once and then every half second until the version is not known any more. A store that cannot be used is
// looked at again: it may come back. The last trouble is told with the context's error.
func poll(ctx context.Context, known Version, look func(context.Context) (Version, error)) error {
	var trouble error
	for {
		v, err := look(ctx)
		switch {
		case err == nil && v != known:
			return nil
		case errors.Is(err, errClosed):
			return err
		case ctx.Err() == nil:
			trouble = err
		}
		if err := pause(ctx, trouble); err != nil {
			return err
		}
	}
}

// pause waits until it is time to look again. When ctx ends first it returns ctx's error, with the trouble there was.
func pause(ctx context.Context, trouble error) error {
	select {
	case <-time.After(pollEvery):
		return nil
	case <-ctx.Done():
	}
	if trouble == nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w, and at last: %w", ctx.Err(), trouble)
}
