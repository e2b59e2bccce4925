package engine

// An AccessKind says what a change does to those it is about.
type AccessKind string

// The kinds there are. Their words are part of the JSON contract.
const (
	AccessLoses  AccessKind = "loses"  // could get in, and cannot any more
	AccessGains  AccessKind = "gains"  // could not, and can
	AccessMethod AccessKind = "method" // has to prove it another way
)

// An Access is what a change of a file means for who may get in where. A resource works it out; the engine tells it.
type Access struct {
	Address     string     `json:"address"` // of the step
	Change      AccessKind `json:"change"`
	Users       []string   `json:"users"`
	Databases   []string   `json:"databases"`
	From        []string   `json:"from"`       // addresses and networks; "local" is the unix socket
	Connection  string     `json:"connection"` // local, plaintext, tls or gss
	Replication bool       `json:"replication"`
	Before      AccessRule `json:"before"`
	After       AccessRule `json:"after"`
	Sessions    int        `json:"sessions,omitempty"` // open right now, that could not come back
	Lockout     bool       `json:"lockout"`            // somebody who has to get in
	Text        string     `json:"text"`               // all of it in a sentence; "" where another's says it too
}

// An AccessRule is the line that decides. Line is nil where none does, and nobody gets in.
type AccessRule struct {
	File    string   `json:"file,omitempty"` // an included one
	Line    *int     `json:"line"`
	Method  string   `json:"method"`
	Options []string `json:"options"`
}

// Affects records what the step's change means for access. Whoever calls it masks what may be secret in a rule.
func (h *Host) Affects(list ...Access) {
	for _, a := range list {
		a.Address = h.step.Address
		h.access = append(h.access, a)
	}
}

// accessOf gathers what the steps said.
func accessOf(outcomes []outcome) []Access {
	var out []Access
	for _, o := range outcomes {
		out = append(out, o.access...)
	}
	return out
}
