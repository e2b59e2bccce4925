package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"converge/engine/recipe"
	"converge/resources"
	"converge/resources/postgres"
)

func (a *app) validateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate",
		Short: "Check recipes and the environment file without looking at the machine",
		Long: `Check recipes and the environment file without looking at the machine: the recipe is evaluated for every node of the
environment, or, without an environment file, for every role (or for the one given).`,
		Example: `  converge validate --recipes ./recipes
  converge validate --environment environment.hcl`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.validate() },
	}
}

func (a *app) validate() error {
	env, nodes, err := a.nodesToValidate()
	if err != nil {
		return err
	}
	if env.Store != nil {
		if _, err := storeArguments(env); err != nil {
			return err
		}
	}
	sources, err := a.recipeSources()
	if err != nil {
		return err
	}
	for _, node := range nodes {
		site := resources.Site{Environment: env, Node: node}
		if isDatabase(node.Role) {
			site.Server = sampleServer()
		}
		if _, _, err := a.graphOf(sources, site); err != nil {
			return err
		}
	}
	if a.flags.json {
		return a.printJSON(map[string]any{"format": 1, "files": len(sources), "nodes": len(nodes), "valid": true})
	}
	_, err = fmt.Fprintf(a.stdout, "%s, valid for %s\n", count(len(sources), "recipe file", "recipe files"), count(len(nodes), "node", "nodes"))
	return err
}

func (a *app) nodesToValidate() (*recipe.Environment, []recipe.Node, error) {
	source, err := a.environmentSource()
	if err != nil {
		return nil, nil, err
	}
	if source != nil {
		env, diags := recipe.ParseEnvironment(*source)
		if diags.HasErrors() {
			return nil, nil, &diagnosticsError{diags, env.Files}
		}
		if len(env.Nodes) > 0 {
			return env, env.Nodes, nil
		}
		return env, sampleNodes(a.flags.role), nil
	}
	role := a.flags.role
	if role == "" {
		role = recipe.Roles[0]
	}
	env, err := recipe.Single("localhost", role, netip.Addr{})
	if err != nil {
		return nil, nil, &usageError{err}
	}
	return env, sampleNodes(a.flags.role), nil
}

// sampleNodes stand for the hosts of recipes that are checked without an environment.
func sampleNodes(role string) []recipe.Node {
	roles := recipe.Roles
	if role != "" {
		roles = []string{role}
	}
	var nodes []recipe.Node
	for _, r := range roles {
		nodes = append(nodes, recipe.Node{Name: "localhost", Role: r})
	}
	return nodes
}

// sampleServer stands for the server of a node that is not this machine.
func sampleServer() *postgres.Server {
	const dir = "/db/postgresql/15"
	return &postgres.Server{
		Major: 15, Version: "15", Layout: postgres.LayoutDB, DataDirectory: dir + "/data",
		ConfigFile: dir + "/data/postgresql.conf", HBAFile: dir + "/data/pg_hba.conf", IdentFile: dir + "/data/pg_ident.conf",
		BinDirectory: "/usr/lib/postgresql/15/bin", Port: 5432, SocketDirectory: "/var/run/postgresql",
		Owner: postgres.Owner{Name: "postgres"}, AdminUser: "postgres",
		SSLDirectory: dir + "/ssl", CustomHBAFile: dir + "/custom_pg_hba.conf", KeygenDirectory: "/db/postgresql/keygen",
	}
}
