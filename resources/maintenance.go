package resources

import (
	"slices"
	"sync"
)

// A Maintenance is what an operator asks of the keys in one run, beyond keeping them. Nil asks for nothing.
type Maintenance struct {
	Server    bool     // another key for this node's server
	AllUsers  bool     // another key for every user
	Users     []string // another key for each of these
	Authority bool     // another authority
	Back      bool     // of those named: the key that was there before, not a new one

	Revoke  []string     // users whose certificates are to count no longer
	Serials []string     // of those users: only the keys of the certificates with these numbers (ParseSerial)
	Reason  string       // why, for people
	Reissue bool         // they get another key in the same run
	Revoked []Revocation // filled by the run: what it has revoked

	chosen bool // Revoked is filled
	mutex  sync.Mutex
	began  map[string]string // what each was, when the run first looked at it
}

// server says whether this node's server is to have another key.
func (m *Maintenance) server() bool { return m != nil && m.Server }

// user says whether a user is to have another key.
func (m *Maintenance) user(name string) bool {
	return m != nil && (m.AllUsers || slices.Contains(m.Users, name))
}

// authority says whether there is to be another authority.
func (m *Maintenance) authority() bool { return m != nil && m.Authority }

// leaves says whether a user's key stays where it is although this run revokes it: nobody has asked for another one yet.
func (m *Maintenance) leaves(user string) bool {
	return m != nil && !m.Reissue && slices.Contains(m.Revoke, user)
}

// back says whether the keys that were there before are wanted.
func (m *Maintenance) back() bool { return m != nil && m.Back }

// pending says whether what was asked of a thing is still to be done: while it is what it was when the run began. A step
// is looked at again after its commit, and must then find nothing to do.
func (m *Maintenance) pending(thing, now string) bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.began == nil {
		m.began = map[string]string{}
	}
	was, seen := m.began[thing]
	if !seen {
		m.began[thing] = now
	}
	return !seen || was == now
}
