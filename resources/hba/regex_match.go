package hba

// A regex is a regular expression of PostgreSQL, ready to be matched.
type regex struct {
	language *language
	tree     *tree // with back-references only: how it is divided
	fold     bool
	groups   int
	kept     int32
}

// finish makes the expression of its tree.
func (r *regexScanner) finish(t *tree) *regex {
	re := &regex{language: t.language, fold: r.fold, groups: r.groups}
	if t.traits&refers != 0 {
		re.tree = t
		r.keepAll(t)
	}
	re.kept = r.kept
	return re
}

// keepAll keeps the results of every part: a division asks for them again and again.
func (r *regexScanner) keepAll(t *tree) {
	r.keep(t.language)
	for _, part := range t.of {
		r.keepAll(part)
	}
}

// match tells whether the text has a match somewhere. The error is errSlow.
func (re *regex) match(s *subject) (bool, error) {
	if re.tree != nil {
		return re.divide(s)
	}
	r := run{subject: s}
	if re.kept > 0 {
		r.kept = make([]results, re.kept+1)
	}
	return r.ends(re.language, s.all) != 0, nil
}

// divide is match for an expression with back-references.
func (re *regex) divide(s *subject) (ok bool, err error) {
	defer func() {
		if e := caught(recover()); e != nil {
			ok, err = false, e
		}
	}()
	d := &division{run: run{s, make([]results, re.kept+1)}, fold: re.fold, groups: make([]stretch, re.groups+1)}
	return d.anywhere(re.tree), nil
}
