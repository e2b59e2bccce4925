package resources

import (
	"context"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"converge/engine"
	"converge/engine/recipe"
	"converge/resources/postgres"
)

// A ServiceReload sees to it that a service runs with what is on disk. The node's PostgreSQL server, under the name
// "postgresql", has to prove it; of any other service the word of systemd or of its command is taken.
type ServiceReload struct {
	Service          *string   `hcl:"service" doc:"The service. \"postgresql\" is the node's server; any other name is a systemd unit or has commands. Default: the block's name."`
	ServiceAt        hcl.Range `hcl:"service,attr_value_range"`
	Action           *string   `hcl:"action" doc:"\"auto\" (default): the least that makes the changes count. \"reload\": never restart. \"restart\": a change always takes a restart."`
	ActionAt         hcl.Range `hcl:"action,attr_value_range"`
	Provider         *string   `hcl:"provider" doc:"How the service is told: \"auto\" (default), \"systemd\", \"pg_ctlcluster\", \"pg_ctl\", \"signal\" or \"command\"."`
	ProviderAt       hcl.Range `hcl:"provider,attr_value_range"`
	Unit             *string   `hcl:"unit" doc:"The systemd unit. Default: found for postgresql, else the service's name."`
	UnitAt           hcl.Range `hcl:"unit,attr_value_range"`
	ReloadCommand    []string  `hcl:"reload_command,optional" doc:"Program and arguments for provider \"command\"; no shell is involved."`
	ReloadCommandAt  hcl.Range `hcl:"reload_command,attr_value_range"`
	RestartCommand   []string  `hcl:"restart_command,optional" doc:"Program and arguments for provider \"command\"."`
	RestartCommandAt hcl.Range `hcl:"restart_command,attr_value_range"`

	site     Site
	service  string
	action   string
	provider postgres.Provider
}

// postgresqlService is the name of the node's server.
const postgresqlService = "postgresql"

var serviceActions = []string{"auto", "reload", "restart"}

// Prepare checks the arguments.
func (s *ServiceReload) Prepare(b recipe.Block) hcl.Diagnostics {
	var diags hcl.Diagnostics
	s.service = b.Address.Name
	if s.Service != nil {
		s.service = *s.Service
	}
	if strings.HasPrefix(s.service, "-") || s.service == "" || strings.ContainsAny(s.service, " \t\n\x00/") {
		diags = append(diags, mistake(s.ServiceAt, b, "Invalid service", "%q cannot be the name of a service.", s.service))
	}
	s.action = "auto"
	if s.Action != nil {
		s.action = *s.Action
		if !slices.Contains(serviceActions, s.action) {
			diags = append(diags, mistake(s.ActionAt, b, "Invalid action", "%q is no action: %s are.", s.action, list(serviceActions)))
		}
	}
	s.provider = postgres.Auto
	if s.Provider != nil {
		s.provider = postgres.Provider(*s.Provider)
	}
	providers := []string{"auto", "systemd", "command"}
	if s.service == postgresqlService {
		providers = []string{"auto", "systemd", "pg_ctlcluster", "pg_ctl", "signal", "command"}
	}
	if !slices.Contains(providers, string(s.provider)) {
		diags = append(diags, mistake(s.ProviderAt, b, "Invalid provider", "%q cannot tell %s anything: %s can.", s.provider, s.service, list(providers)))
	}
	return append(diags, s.checkCommands(b)...)
}

func (s *ServiceReload) checkCommands(b recipe.Block) hcl.Diagnostics {
	var diags hcl.Diagnostics
	given := len(s.ReloadCommand)+len(s.RestartCommand) > 0
	if s.provider == postgres.Command && s.action != "restart" && len(s.ReloadCommand) == 0 {
		diags = append(diags, mistake(hcl.Range{}, b, "Missing command", "provider \"command\" needs reload_command = [\"PROGRAM\", \"ARGUMENT\"]."))
	}
	if s.provider == postgres.Command && s.action == "restart" && len(s.RestartCommand) == 0 {
		diags = append(diags, mistake(hcl.Range{}, b, "Missing command", "provider \"command\" with action \"restart\" needs restart_command = [\"PROGRAM\", \"ARGUMENT\"]."))
	}
	if given && s.provider != postgres.Command {
		at := s.ReloadCommandAt
		if len(s.ReloadCommand) == 0 {
			at = s.RestartCommandAt
		}
		diags = append(diags, mistake(at, b, "Command without its provider", "The command would never be called: set provider = \"command\"."))
	}
	return diags
}

// Exports returns the name of the service.
func (s *ServiceReload) Exports() map[string]cty.Value {
	return map[string]cty.Value{"service": cty.StringVal(s.service)}
}

// Targets returns nothing: a service writes no files.
func (s *ServiceReload) Targets() []engine.Target { return nil }

// ServiceName is what is owed to.
func (s *ServiceReload) ServiceName() string { return s.service }

// Reads returns where PostgreSQL has its configuration: whatever a site's own recipe writes there, the server takes up.
func (s *ServiceReload) Reads() []string {
	server := s.site.Server
	if s.service != postgresqlService || server == nil {
		return nil
	}
	return []string{path.Dir(server.ConfigFile), server.HBAFile, server.IdentFile, server.DataDirectory}
}

// Converge reloads or restarts the service when something is owed to it, or when evidence shows that it does not run with
// what is on disk.
func (s *ServiceReload) Converge(ctx context.Context, h *engine.Host) error {
	if s.service == postgresqlService {
		return postgresqlConverger{s, s.site.Server}.converge(ctx, h)
	}
	owed, is := h.Owed()
	switch {
	case !is:
		return nil
	case h.Acted():
		h.Paid()
		return nil
	}
	want := engine.Reload
	if s.action == "restart" || owed.Action == engine.Restart {
		want = engine.Restart
	}
	s.act(h, want, owed.Reason, func(ctx context.Context) error { return s.tell(ctx, want) })
	return nil
}

// act stages a reload or a restart, if this run may cause it, and else leaves it owed.
func (s *ServiceReload) act(h *engine.Host, want engine.Disruption, reason string, do func(context.Context) error) {
	if most, why := h.Allowed(); want > most {
		h.Defer(s.service, want, reason, why)
		return
	}
	kind := engine.OpReload
	if want == engine.Restart {
		kind = engine.OpRestart
	}
	h.Explain(fmt.Sprintf("%s %s", kind, s.service), reason)
	h.Act(engine.Action{Kind: kind, Service: s.service, Do: do})
}

// tell reloads or restarts a service that is not PostgreSQL.
func (s *ServiceReload) tell(ctx context.Context, want engine.Disruption) error {
	words := s.ReloadCommand
	if want == engine.Restart {
		words = s.RestartCommand
	}
	if s.provider != postgres.Command {
		unit := s.service
		if s.Unit != nil {
			unit = *s.Unit
		}
		words = []string{"systemctl", want.String(), "--", unit}
	}
	if len(words) == 0 {
		return fmt.Errorf("%s %s: the recipe gives no command for it", want, s.service)
	}
	out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", want, s.service, err, engine.Redact(strings.TrimSpace(string(out))))
	}
	return nil
}
