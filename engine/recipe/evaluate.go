package recipe

import (
	"cmp"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// An evaluation is the state of one For.
type evaluation struct {
	recipe      *Recipe
	role        string
	roots       map[string]cty.Value
	environment *Environment         // nil where no name has a value
	missing     map[string]string    // top-level names that this node does not have, and why
	variables   map[string]cty.Value // without those that have no usable value
	locals      map[string]*localState
	blocks      map[Address]*blockState // of this role
	count       int                     // block instances
	refs        int
	full        bool // a limit was met and reported
	diags       hcl.Diagnostics
}

// A localState is a local's value once it is known. Its refs are the blocks that the value was made from.
type localState struct {
	value  cty.Value
	known  bool
	refs   []Address
	absent *absence // it needs what is not on this node, which matters only to those who use it
}

// An absence is a reference to a block that is not for this role, or to a name that this node does not have.
type absence struct {
	place hcl.Range
	what  string // "server_key.postgresql", or "postgresql"
	why   string
}

// A blockState is a block's instances once they are evaluated.
type blockState struct {
	block     *Declaration
	instances []Block
	value     cty.Value            // of TYPE.NAME
	keys      map[string]cty.Value // for_each: the value of each instance; cty.NilVal for a broken one
	known     bool
}

// An eachPair is each.key and each.value.
type eachPair struct {
	key, value cty.Value
}

func (e *evaluation) report(diags ...*hcl.Diagnostic) { e.diags = append(e.diags, diags...) }

// prepareStates makes a state for every local and block, so that those on a circle count as broken, not as unknown.
func (e *evaluation) prepareStates(g *graph) {
	for _, n := range g.nodes {
		if n.local != nil {
			e.locals[n.local.name] = &localState{}
		} else {
			e.blocks[n.block.Address] = &blockState{block: n.block}
		}
	}
}

func (e *evaluation) evaluateLocal(l *local) {
	s := e.locals[l.name]
	if s.absent = e.absentIn(l); s.absent != nil {
		return
	}
	value, refs, ok := e.value(l.expr, nil)
	if !ok {
		return
	}
	if infinite(value) {
		_, d := fit(value, value.Type(), "local."+l.name, l.expr.Range())
		e.report(d)
		return
	}
	s.value, s.known = value, true
	for _, ref := range refs {
		s.refs = append(s.refs, ref.To)
	}
}

func (e *evaluation) absentIn(l *local) *absence {
	for i := range l.expr.uses {
		u := &l.expr.uses[i]
		if u.wrong || len(u.steps) < 2 {
			continue
		}
		if why := e.missing[u.root()]; why != "" {
			return &absence{place: u.place(), what: u.root(), why: why}
		}
		name, _ := stepName(u.steps[1])
		if u.root() == "local" {
			if s := e.locals[name]; s.absent != nil {
				return s.absent
			}
		}
		address := Address{Type: u.root(), Name: name}
		if d := e.recipe.declared[address]; d != nil && e.blocks[address] == nil {
			return &absence{place: u.place(), what: address.String(), why: e.notHere(d)}
		}
	}
	return nil
}

func (e *evaluation) evaluateBlock(d *Declaration) {
	s := e.blocks[d.Address]
	if !d.ForEach {
		e.evaluatePlain(s)
		return
	}
	over, refs, ok := e.value(*d.forEach, nil)
	if !ok {
		return
	}
	pairs, fault := e.forEachPairs(over, d.forEach.Range())
	if fault != nil {
		e.report(fault)
		return
	}
	s.known, s.keys = true, make(map[string]cty.Value, len(pairs))
	all := make(map[string]cty.Value, len(pairs))
	for i := range pairs {
		key := pairs[i].key.AsString()
		address := Address{Type: d.Address.Type, Name: d.Address.Name, Key: key, HasKey: true}
		value, ok := e.instance(s, address, &pairs[i], refs)
		if s.keys[key] = value; !ok {
			s.keys[key] = cty.NilVal
			continue
		}
		all[key] = value
	}
	s.value = cty.ObjectVal(all)
}

func (e *evaluation) evaluatePlain(s *blockState) {
	s.value, s.known = e.instance(s, s.block.Address, nil, nil)
}

// forEachPairs returns the keys and values of for_each, sorted by key.
func (e *evaluation) forEachPairs(over cty.Value, place hcl.Range) ([]eachPair, *hcl.Diagnostic) {
	const what = "for_each wants a set of strings or a map"
	if marked := over.ContainsMarked(); marked {
		return nil, mistake(place, "Invalid for_each", "for_each cannot use a sensitive value: its keys are part of addresses, which are printed.")
	}
	t := over.Type()
	switch {
	case over.IsNull():
		return nil, mistake(place, "Invalid for_each", "%s, and this is null. For no instance at all write {}.", what)
	case !over.IsWhollyKnown():
		return nil, mistake(place, "Invalid for_each", "%s that is known before anything runs.", what)
	case t.IsListType() || t.IsTupleType():
		return nil, mistake(place, "Invalid for_each", "%s, and this is a list, in which a key could stand twice. Write toset([...]).", what)
	case t.IsSetType() && t.ElementType() != cty.String && over.LengthInt() > 0:
		return nil, mistake(place, "Invalid for_each", "%s, and this is %s.", what, typeName(t))
	case !t.IsSetType() && !t.IsMapType() && !t.IsObjectType():
		return nil, mistake(place, "Invalid for_each", "%s, and this is %s.", what, typeName(t))
	}
	var pairs []eachPair
	for it := over.ElementIterator(); it.Next(); {
		key, value := it.Element()
		if t.IsSetType() {
			key = value
		}
		if key.IsNull() || key.AsString() == "" {
			return nil, mistake(place, "Invalid for_each", "A key of for_each is empty or null: it is part of the address of its instance.")
		}
		pairs = append(pairs, eachPair{key, value})
	}
	slices.SortFunc(pairs, func(a, b eachPair) int { return cmp.Compare(a.key.AsString(), b.key.AsString()) })
	return pairs, nil
}

// instance evaluates one instance of a block and returns what other blocks see of it.
func (e *evaluation) instance(s *blockState, address Address, each *eachPair, forEachRefs []Ref) (cty.Value, bool) {
	if e.count++; e.count > MaxInstances {
		e.limit(mistake(s.block.Range, "Too many blocks", "A recipe may have %d blocks on a node, counting one for each key of a for_each. %s is one too many.", MaxInstances, address))
		return cty.NilVal, false
	}
	d := s.block
	b := Block{Address: address, Config: d.Type.New(), Range: d.Range}
	if each != nil {
		b.EachKey, b.EachValue = each.key, each.value
	}
	content, found := e.bodyValues(d, each)
	b.Sensitive = found.sensitive
	refs := slices.Concat(forEachRefs, found.refs)
	dependsOn, ok := e.references(d.dependsOn, each, false)
	onChange, ok2 := e.references(d.onChange, each, true)
	b.After = unique(slices.Concat(refs, dependsOn, onChange))
	b.OnChange = unique(onChange)
	if e.refs += len(b.After); e.refs > maxRefs {
		e.limit(mistake(d.Range, "Too many references", "The blocks of a node may have %d references. Refer to single instances, as in TYPE.NAME[each.key], instead of to all of a block with for_each.", maxRefs))
		return cty.NilVal, false
	}
	if !found.ok || !ok || !ok2 || d.broken || e.full {
		return cty.NilVal, false
	}
	value, ok := e.finish(b, content)
	if ok {
		s.instances = append(s.instances, b)
	}
	return value, ok
}

// limit reports that evaluation cannot go on, once.
func (e *evaluation) limit(d *hcl.Diagnostic) {
	if !e.full {
		e.report(d)
	}
	e.full = true
}

// finish fills in the block's Config, lets it prepare, and returns its exports.
func (e *evaluation) finish(b Block, content *values) (cty.Value, bool) {
	diags := decode(content, e.recipe.kinds[b.Address.Type].shape, b.Address.String(), b.Config)
	if !diags.HasErrors() {
		diags = append(diags, b.Config.Prepare(b)...)
	}
	redact(diags, content, b.Sensitive)
	for _, d := range diags {
		if d.Subject == nil {
			d.Subject = &b.Range
		}
	}
	e.report(diags...)
	if diags.HasErrors() {
		return cty.NilVal, false
	}
	exports := b.Config.Exports()
	seen := make(map[string]cty.Value, len(exports)+2)
	maps.Copy(seen, exports)
	for _, name := range b.Sensitive {
		if value, exported := seen[name]; exported {
			seen[name] = value.Mark(sensitive)
		}
	}
	seen["address"], seen["type"] = cty.StringVal(b.Address.String()), cty.StringVal(b.Address.Type)
	return cty.ObjectVal(seen), true
}

// found is what evaluating a body brought to light beside the values.
type found struct {
	refs      []Ref
	sensitive []string
	ok        bool
}

func (e *evaluation) bodyValues(d *Declaration, each *eachPair) (*values, found) {
	f := found{ok: true}
	content := e.fill(d.body, d.kind.shape, d.Address.String(), d, each, &f)
	slices.Sort(f.sensitive)
	f.sensitive = slices.Compact(f.sensitive)
	return content, f
}

// fill evaluates a body and those in it. For a block's own body d is given: its meta-arguments are left out.
func (e *evaluation) fill(b *body, s shape, owner string, d *Declaration, each *eachPair, f *found) *values {
	content := &values{arguments: make([]givenValue, 0, len(b.arguments))}
	for i := range b.arguments {
		a := &b.arguments[i]
		want, declared := s.arguments[a.name]
		if !declared || d != nil && d.isMeta(a.name) {
			continue
		}
		value, refs, ok := e.value(a.expr, each)
		f.refs = append(f.refs, refs...)
		if ok {
			value, ok = e.accept(a, value, want, owner, f)
		}
		if !ok {
			f.ok = false
		} else if value != cty.NilVal {
			content.arguments = append(content.arguments, givenValue{a, want, value})
		}
	}
	for _, inner := range b.blocks {
		if want := s.blocks[inner.kind]; want != nil {
			values := e.fill(inner.body, want.shape, quoted(inner.kind)+" of "+owner, nil, each, f)
			content.blocks = append(content.blocks, blockValues{inner, want, *values})
		}
	}
	return content
}

// accept judges the value of an argument. It returns cty.NilVal for a null, which means that the argument is left out.
func (e *evaluation) accept(a *argument, value cty.Value, want argumentShape, owner string, f *found) (cty.Value, bool) {
	value, marks := value.UnmarkDeep()
	if len(marks) > 0 {
		f.sensitive = append(f.sensitive, a.name)
	}
	what := quoted(a.name) + " of " + owner
	place := a.expr.Range()
	if value.IsNull() {
		if want.required {
			e.report(mistake(place, "Null value", "%s must not be null: it has no default.", what))
			return cty.NilVal, false
		}
		return cty.NilVal, true
	}
	if !value.IsWhollyKnown() {
		e.report(mistake(place, "Value not known", "%s is not known before anything runs. Use values of the recipe and of the node only.", what))
		return cty.NilVal, false
	}
	fitted, fault := fit(value, want.kind, what, place)
	if fault == nil && nullInside(fitted) && want.kind != cty.DynamicPseudoType {
		fault = mistake(place, "Null value", "%s has a null in it. Take it out, or give it a value.", what)
	}
	if fault != nil {
		e.report(fault)
		return cty.NilVal, false
	}
	return fitted, true
}

// nullInside tells whether a list, set or map has a null element.
func nullInside(value cty.Value) bool {
	if t := value.Type(); !t.IsCollectionType() {
		return false
	}
	for it := value.ElementIterator(); it.Next(); {
		if _, element := it.Element(); element.IsNull() || nullInside(element) {
			return true
		}
	}
	return false
}

// value evaluates an expression with the names it uses and no others: a context with all blocks of a recipe in it would
// cost as much for each expression as the recipe is long. It returns false when the value cannot be had; the reason is
// then reported, here or where the name it depends on failed.
func (e *evaluation) value(expr expression, each *eachPair) (cty.Value, []Ref, bool) {
	if len(expr.uses) == 0 {
		value, diags := expr.Value(pure)
		e.report(reworded(diags)...)
		return value, nil, !diags.HasErrors()
	}
	names, ok := e.resolve(expr, each)
	if !ok {
		return cty.NilVal, names.refs, false
	}
	ctx := pure.NewChild()
	ctx.Variables = names.variables()
	value, diags := expr.Value(ctx)
	if names.secret() {
		diags = withheld(diags)
	}
	e.report(reworded(diags)...)
	return value, names.refs, !diags.HasErrors()
}

// collect returns the instances in the order of evaluation, numbered in the order of declaration.
func (e *evaluation) collect(g *graph, order []int) []Block {
	number := 0
	for _, n := range g.nodes {
		if n.block == nil {
			continue
		}
		instances := e.blocks[n.block.Address].instances
		for i := range instances {
			instances[i].Declared = number
			number++
		}
	}
	blocks := make([]Block, 0, number)
	for _, n := range order {
		if block := g.nodes[n].block; block != nil {
			blocks = append(blocks, e.blocks[block.Address].instances...)
		}
	}
	return blocks
}

// unique sorts references by place and keeps the first to each address.
func unique(refs []Ref) []Ref {
	if len(refs) < 2 {
		return refs
	}
	slices.SortStableFunc(refs, func(a, b Ref) int { return cmp.Compare(a.Range.Start.Byte, b.Range.Start.Byte) })
	seen := make(map[Address]bool, len(refs))
	return slices.DeleteFunc(refs, func(r Ref) bool {
		again := seen[r.To]
		seen[r.To] = true
		return again
	})
}

func quoted(name string) string { return `"` + name + `"` }

// evaluateKey evaluates the key in TYPE.NAME[KEY].
func (e *evaluation) evaluateKey(key *expression, each *eachPair) (string, bool) {
	before := len(e.diags)
	value, _, ok := e.value(*key, each)
	e.diags = e.diags[:before] // what is wrong with the key is said of the expression that it is part of
	if !ok {
		return "", false
	}
	value, _ = value.Unmark()
	if value.Type() == cty.Number && value.IsKnown() && !value.IsNull() {
		return value.AsBigFloat().Text('f', -1), true
	}
	if !isText(value) {
		return "", false
	}
	return value.AsString(), true
}
