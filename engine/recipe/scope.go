package recipe

import (
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// A Scope is what a recipe is evaluated for: one node of an environment.
type Scope struct {
	Environment *Environment         // never nil
	Node        Node                 // its Role decides which blocks there are
	Values      map[string]cty.Value // more top-level names, as "postgresql"; must not be var, local, each, environment, node or a block type
	Missing     map[string]string    // top-level names that other nodes have, and why this one does not: "which ... ."; a local may use one as long as nothing here uses the local
	Vars        map[string]string    // --var NAME=TEXT
	Types       []string             // only blocks of these types, and what they refer to; empty: all
}

// A Program is a recipe evaluated for one node.
type Program struct {
	Blocks    []Block // each after all that it refers to; where that leaves a choice, in declared order
	Windows   []Window
	Variables map[string]cty.Value // the final values; those of sensitive variables are marked
}

// For evaluates the recipe for a node. With errors the program is what could be evaluated, and must not be applied. The
// diagnostics are sorted, and do not repeat those of Load. For a recipe with a file that Load could not parse there is
// nothing to evaluate: the program is empty, without diagnostics of its own.
func (r *Recipe) For(scope Scope) (*Program, hcl.Diagnostics) {
	if r.unread {
		return &Program{}, nil
	}
	e := &evaluation{
		recipe: r, role: scope.Node.Role,
		roots:       rootValues(scope),
		environment: scope.Environment,
		missing:     scope.Missing,
		variables:   map[string]cty.Value{},
		locals:      map[string]*localState{},
		blocks:      map[Address]*blockState{},
	}
	e.setVariables(scope)
	g := r.graph(scope.Node.Role)
	order, cycles := g.order()
	e.report(cycles...)
	e.prepareStates(g)
	kept := g.kept(scope.Types)
	for _, n := range order {
		if !kept(n) {
			continue
		}
		if l := g.nodes[n].local; l != nil {
			e.evaluateLocal(l)
		} else {
			e.evaluateBlock(g.nodes[n].block)
		}
	}
	program := &Program{Windows: e.evaluateWindows(), Variables: e.variables}
	program.Blocks = e.collect(g, order)
	return program, Sorted(e.diags)
}

// rootValues are the top-level names that are the same in every expression.
func rootValues(scope Scope) map[string]cty.Value {
	roots := map[string]cty.Value{}
	maps.Copy(roots, scope.Values)
	roots["node"] = scope.Node.value()
	return roots
}

// setVariables gives each variable its value: its default, then the environment file's, then --var.
func (e *evaluation) setVariables(scope Scope) {
	for i := range e.recipe.Variables {
		v := &e.recipe.Variables[i]
		if v.broken {
			continue
		}
		if value, ok := e.variableValue(v, scope); ok {
			if v.Sensitive {
				value = value.Mark(sensitive)
			}
			if e.checkRules(v, value) {
				e.variables[v.Name] = value
			}
		}
	}
	known := keysOf(e.recipe.variables)
	for _, name := range slices.Sorted(maps.Keys(scope.Environment.Variables)) {
		if e.recipe.variables[name] == nil {
			place := scope.Environment.Variables[name].NameRange
			d := mistake(place, "Unknown variable", "No recipe declares a variable %q.%s", name, suggestion(name, known))
			e.report(e.recipe.withoutSource(d, place))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(scope.Vars)) {
		if e.recipe.variables[name] == nil {
			e.report(general("Unknown variable", "--var %s: no recipe declares a variable %q.%s", name, name, suggestion(name, known)))
		}
	}
}

// variableValue returns the value of the last source that gives one, and false when there is none that fits.
func (e *evaluation) variableValue(v *Variable, scope Scope) (cty.Value, bool) {
	what := "var." + v.Name
	if text, given := scope.Vars[v.Name]; given {
		value, fault := v.parseVar(text)
		if fault != "" {
			e.report(general("Wrong value for a variable", "The text of --var %s cannot be used: %s.", v.Name, fault))
			return cty.NilVal, false
		}
		fitted, d := fit(value, v.Type, "--var "+v.Name, v.Range)
		return fitted, e.acceptVariable(v, fitted, d, v.Range)
	}
	if given, ok := scope.Environment.Variables[v.Name]; ok {
		fitted, d := fit(given.Value, v.Type, what, given.Range)
		return fitted, e.acceptVariable(v, fitted, d, given.Range)
	}
	if v.Default == cty.NilVal {
		e.report(mistake(v.Range, "Missing variable", "%s has no default and is given no value. Set it in the environment file (variables = { %s = ... }), or with --var %s=VALUE.", what, v.Name, v.Name))
		return cty.NilVal, false
	}
	return v.Default, true
}

// acceptVariable reports the fault of a value, or that it is null where its variable does not allow that.
func (e *evaluation) acceptVariable(v *Variable, value cty.Value, fault *hcl.Diagnostic, place hcl.Range) bool {
	if fault == nil && value.IsNull() && (v.Default == cty.NilVal || !v.Default.IsNull()) {
		fault = mistake(place, "Null value", "var.%s must not be null. Give it a value, or leave it out for its default.", v.Name)
	}
	if fault == nil {
		return true
	}
	if v.Sensitive {
		fault = e.recipe.withoutSource(fault, place)
	}
	e.report(fault)
	return false
}

// withoutSource names a place instead of showing its line, where a secret could stand in that.
func (r *Recipe) withoutSource(d *hcl.Diagnostic, place hcl.Range) *hcl.Diagnostic {
	if !slices.ContainsFunc(r.Variables, func(v Variable) bool { return v.Sensitive }) {
		return d
	}
	return general(d.Summary, "%s: %s", at(place), d.Detail)
}

func (e *evaluation) checkRules(v *Variable, value cty.Value) bool {
	variables := map[string]cty.Value{"var": cty.ObjectVal(map[string]cty.Value{v.Name: value})}
	ctx := pure.NewChild()
	ctx.Variables = variables
	ok := true
	for _, rule := range v.rules {
		holds, diags := rule.condition.Value(ctx)
		if diags.HasErrors() {
			if v.Sensitive {
				diags = withheld(diags)
			}
			e.report(reworded(diags)...)
			ok = false
			continue
		}
		holds, _ = holds.Unmark()
		holds, d := fit(holds, cty.Bool, "The condition", rule.place)
		if d == nil && holds.IsNull() {
			d = mistake(rule.place, "Null value", "The condition of var.%s is null: it must be true or false.", v.Name)
		}
		if d == nil && holds.False() {
			d = mistake(rule.place, "Invalid value for a variable", "var.%s: %s", v.Name, e.ruleMessage(rule, ctx))
		}
		if d != nil {
			e.report(d)
			ok = false
		}
	}
	return ok
}

// ruleMessage is the author's sentence, or a plain one where it cannot be shown.
func (e *evaluation) ruleMessage(rule rule, ctx *hcl.EvalContext) string {
	message, diags := rule.message.Value(ctx)
	if diags.HasErrors() || !isText(message) {
		return "its value does not hold to this condition."
	}
	return message.AsString()
}

// environmentParts are the attributes of "environment" in expressions.
var environmentParts = map[string]func(*Environment) cty.Value{
	"name":       func(env *Environment) cty.Value { return cty.StringVal(env.Name) },
	"app_user":   func(env *Environment) cty.Value { return cty.StringVal(env.AppUser) },
	"admin_user": func(env *Environment) cty.Value { return cty.StringVal(env.AdminUser) },
	"nodes":      (*Environment).nodesValue,
	"cidrs":      (*Environment).cidrsValue,
}

// value is "environment" in expressions, all of it.
func (env *Environment) value() cty.Value {
	parts := map[string]cty.Value{}
	for name, part := range environmentParts {
		parts[name] = part(env)
	}
	return cty.ObjectVal(parts)
}

// nodesValue is made once: a recipe is evaluated for many nodes of one environment.
func (env *Environment) nodesValue() cty.Value {
	env.once.Do(func() { env.nodes = env.makeNodesValue() })
	return env.nodes
}

func (env *Environment) makeNodesValue() cty.Value {
	if len(env.Nodes) == 0 {
		return cty.ListValEmpty(cty.Object(map[string]cty.Type{
			"name": cty.String, "role": cty.String, "address": cty.String, "names": cty.List(cty.String),
		}))
	}
	list := make([]cty.Value, len(env.Nodes))
	for i := range env.Nodes {
		list[i] = env.Nodes[i].value()
	}
	return cty.ListVal(list)
}

func (env *Environment) cidrsValue() cty.Value {
	cidrs := make([]string, len(env.CIDRs))
	for i, prefix := range env.CIDRs {
		cidrs[i] = prefix.String()
	}
	return listOfStrings(cidrs)
}

// value is "node" in expressions. The address is null when it is not known.
func (n *Node) value() cty.Value {
	address := cty.NullVal(cty.String)
	if n.Address.IsValid() {
		address = cty.StringVal(n.Address.String())
	}
	return cty.ObjectVal(map[string]cty.Value{
		"name": cty.StringVal(n.Name), "role": cty.StringVal(n.Role), "address": address, "names": listOfStrings(n.Names),
	})
}

func listOfStrings(texts []string) cty.Value {
	if len(texts) == 0 {
		return cty.ListValEmpty(cty.String)
	}
	list := make([]cty.Value, len(texts))
	for i, text := range texts {
		list[i] = cty.StringVal(text)
	}
	return cty.ListVal(list)
}
