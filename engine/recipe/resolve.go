package recipe

import (
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// names are the values that one expression can see, and the blocks that they come from.
type names struct {
	roots  map[string]cty.Value            // node, each, postgresql, and environment as a whole
	groups map[string]map[string]cty.Value // var, local, block types, and parts of environment: name to value
	refs   []Ref
}

func (n *names) root(name string, value cty.Value) {
	if n.roots == nil {
		n.roots = map[string]cty.Value{}
	}
	n.roots[name] = value
}

func (n *names) member(group, name string, value cty.Value) {
	if n.groups == nil {
		n.groups = map[string]map[string]cty.Value{}
	}
	if n.groups[group] == nil {
		n.groups[group] = map[string]cty.Value{}
	}
	n.groups[group][name] = value
}

// secret tells whether a sensitive value is among them. HCL's messages can repeat the values they speak of.
func (n *names) secret() bool {
	for _, members := range n.groups {
		for _, value := range members {
			if value.ContainsMarked() {
				return true
			}
		}
	}
	return n.roots["each"] != cty.NilVal && n.roots["each"].ContainsMarked()
}

func (n *names) variables() map[string]cty.Value {
	all := make(map[string]cty.Value, len(n.roots)+len(n.groups))
	for name, members := range n.groups {
		all[name] = cty.ObjectVal(members)
	}
	maps.Copy(all, n.roots)
	return all
}

// resolve finds the values of all names in an expression. It is false when one of them has none; the reason is reported.
func (e *evaluation) resolve(expr expression, each *eachPair) (*names, bool) {
	n := &names{}
	ok := true
	for i := range expr.uses {
		if !e.resolveUse(&expr.uses[i], each, n) {
			ok = false
		}
	}
	return n, ok
}

func (e *evaluation) resolveUse(u *use, each *eachPair, n *names) bool {
	if u.wrong {
		return false
	}
	root, name := u.root(), ""
	if len(u.steps) > 1 {
		name, _ = stepName(u.steps[1])
	}
	switch {
	case root == "var":
		value, known := e.variables[name]
		if !known {
			return false
		}
		n.member(root, name, value)
		return e.checkSteps(value, u.steps, 2)
	case root == "local":
		return e.resolveLocal(u, name, n)
	case root == "each":
		return e.resolveEach(u, each, n)
	case root == "environment":
		return e.resolveEnvironment(u, name, n)
	case e.recipe.kinds[root] != nil:
		return e.resolveBlock(u, Address{Type: root, Name: name}, each, n)
	}
	if why := e.missing[root]; why != "" {
		e.report(mistake(u.steps[0].SourceRange(), "Not on this node", "This uses %s, %s", root, why))
		return false
	}
	value, known := e.roots[root]
	if !known {
		e.report(mistake(u.steps[0].SourceRange(), "Unknown name", "There is no %q here.%s", root, suggestion(root, e.rootNames())))
		return false
	}
	n.root(root, value)
	return e.checkSteps(value, u.steps, 1)
}

// resolveEnvironment makes of the environment what is named: its nodes can be ten thousand.
func (e *evaluation) resolveEnvironment(u *use, name string, n *names) bool {
	make := environmentParts[name]
	switch {
	case make != nil:
		value := make(e.environment)
		n.member("environment", name, value)
		return e.checkSteps(value, u.steps, 2)
	case len(u.steps) > 1:
		if _, attribute := u.steps[1].(hcl.TraverseAttr); attribute {
			place := hcl.RangeBetween(u.steps[0].SourceRange(), u.steps[1].SourceRange())
			e.report(mistake(place, "Unknown attribute", "There is no attribute %q.%s", name, suggestion(name, keysOf(environmentParts))))
			return false
		}
	}
	value := e.environment.value()
	n.root("environment", value)
	return e.checkSteps(value, u.steps, 1)
}

func (e *evaluation) rootNames() []string {
	return slices.Concat([]string{"var", "local", "each", "environment"}, keysOf(e.roots), keysOf(e.recipe.kinds))
}

func (e *evaluation) resolveLocal(u *use, name string, n *names) bool {
	s := e.locals[name]
	if s.absent != nil {
		e.report(mistake(u.place(), "Block for other roles", "local.%s uses %s at %s, %s", name, s.absent.what, at(s.absent.place), s.absent.why))
		return false
	}
	if !s.known {
		return false
	}
	for _, address := range s.refs {
		n.refs = append(n.refs, Ref{To: address, Range: u.place()})
	}
	n.member("local", name, s.value)
	return e.checkSteps(s.value, u.steps, 2)
}

// notHere explains why a block is missing, and what to do.
func (e *evaluation) notHere(d *Declaration) string {
	return "which is declared at " + at(d.Range) + " for " + rolesText(d.Roles) + ", and this node is " + e.role +
		". Add the role there, or give the block that refers to it the same roles."
}

func rolesText(roles []string) string {
	if len(roles) == 1 {
		return "the role " + roles[0]
	}
	return "the roles " + choicesInOrder(roles)
}

func (e *evaluation) resolveEach(u *use, each *eachPair, n *names) bool {
	if each == nil {
		return false
	}
	value := cty.ObjectVal(map[string]cty.Value{"key": each.key, "value": each.value})
	n.root("each", value)
	return e.checkSteps(value, u.steps, 1)
}

// resolveBlock finds the block that a name means, and which of its instances.
func (e *evaluation) resolveBlock(u *use, address Address, each *eachPair, n *names) bool {
	s := e.blocks[address]
	if s == nil {
		e.report(mistake(u.place(), "Block for other roles", "This refers to %s, %s", address, e.notHere(e.recipe.declared[address])))
		return false
	}
	refs, value, rest, ok := e.instancesOf(u, s, each)
	for _, to := range refs {
		n.refs = append(n.refs, Ref{To: to, Range: u.place()})
	}
	if !ok {
		return false
	}
	n.member(address.Type, address.Name, s.value)
	return e.checkSteps(value, rest, 0)
}

// instancesOf returns the addresses that a use means, the value of the one it names (of the whole block when it names
// none) and the steps that follow it.
func (e *evaluation) instancesOf(u *use, s *blockState, each *eachPair) ([]Address, cty.Value, hcl.Traversal, bool) {
	d := s.block
	if !s.known {
		return []Address{d.Address}, cty.NilVal, nil, false
	}
	rest := u.steps[2:]
	if !d.ForEach {
		if len(rest) > 0 {
			if _, index := rest[0].(hcl.TraverseIndex); index {
				if name, ok := stepName(rest[0]); !ok || !s.value.Type().HasAttribute(name) {
					e.report(mistake(u.place(), "No such instance", "%s has no for_each, so it has no instances to choose from: write %s without a key.", d.Address, d.Address))
					return nil, cty.NilVal, nil, false
				}
			}
		}
		return []Address{d.Address}, s.value, rest, true
	}
	key, chosen := "", false
	if len(rest) > 0 {
		if key, chosen = stepName(rest[0]); !chosen {
			e.report(mistake(u.place(), "No such instance", "The instances of %s have names, not numbers.%s", d.Address, suggestion("", keysOf(s.keys))))
			return nil, cty.NilVal, nil, false
		}
		rest = rest[1:]
	} else if u.key != nil {
		key, chosen = e.evaluateKey(u.key, each)
		rest = u.after
	}
	if !chosen {
		return e.allInstances(s), s.value, nil, !s.hasBroken()
	}
	value, exists := s.keys[key]
	if !exists {
		e.report(e.noInstance(u, s, key))
		return nil, cty.NilVal, nil, false
	}
	one := Address{Type: d.Address.Type, Name: d.Address.Name, Key: key, HasKey: true}
	return []Address{one}, value, rest, value != cty.NilVal
}

func (e *evaluation) noInstance(u *use, s *blockState, key string) *hcl.Diagnostic {
	if _, attribute := u.steps[len(u.steps)-1].(hcl.TraverseAttr); attribute && u.key == nil && s.exports(key) {
		return mistake(u.place(), "No instance chosen", "%s has for_each: choose one instance, as in %s[each.key].%s.", s.block.Address, s.block.Address, key)
	}
	return mistake(u.place(), "No such instance", "%s has no instance %q.%s", s.block.Address, key, suggestion(key, keysOf(s.keys)))
}

func (s *blockState) exports(name string) bool {
	for _, value := range s.keys {
		if value != cty.NilVal && value.Type().HasAttribute(name) {
			return true
		}
	}
	return false
}

func (s *blockState) hasBroken() bool {
	for _, value := range s.keys {
		if value == cty.NilVal {
			return true
		}
	}
	return false
}

func (e *evaluation) allInstances(s *blockState) []Address {
	all := make([]Address, len(s.instances))
	for i, b := range s.instances {
		all[i] = b.Address
	}
	return all
}

// checkSteps follows attributes through objects, so that a wrong one is answered with those that there are.
func (e *evaluation) checkSteps(value cty.Value, steps hcl.Traversal, from int) bool {
	for i := from; i < len(steps); i++ {
		value, _ = value.Unmark()
		name, named := stepName(steps[i])
		if !named || value == cty.NilVal || !value.Type().IsObjectType() || value.IsNull() || !value.IsKnown() {
			return true // HCL judges what is no object
		}
		if !value.Type().HasAttribute(name) {
			place := hcl.RangeBetween(steps[0].SourceRange(), steps[i].SourceRange())
			e.report(mistake(place, "Unknown attribute", "There is no attribute %q.%s", name, suggestion(name, keysOf(value.Type().AttributeTypes()))))
			return false
		}
		value = value.GetAttr(name)
	}
	return true
}

// references resolves depends_on or on_change. What is not for this role is left out where the argument allows that.
func (e *evaluation) references(uses []use, each *eachPair, leaveOut bool) ([]Ref, bool) {
	var refs []Ref
	ok := true
	for i := range uses {
		u := &uses[i]
		if u.wrong {
			ok = false
			continue
		}
		address := Address{Type: u.root(), Name: traversalName(u.steps[1])}
		if e.recipe.declared[address] == nil {
			e.report(mistake(u.place(), "Invalid reference", "Only blocks can stand here, and %s is none.", u.root()))
			ok = false
			continue
		}
		if leaveOut && e.blocks[address] == nil {
			continue
		}
		n := &names{}
		if !e.resolveBlockOnly(u, address, each, n) {
			ok = false
		}
		refs = append(refs, n.refs...)
	}
	return refs, ok
}

func (e *evaluation) resolveBlockOnly(u *use, address Address, each *eachPair, n *names) bool {
	if u.key != nil {
		if _, usable := e.evaluateKey(u.key, each); !usable {
			e.report(mistake(u.place(), "Invalid reference", "The key of this reference must be a string that is known here, as in %s[each.key].", address))
			return false
		}
	}
	return e.resolveBlock(u, address, each, n)
}
