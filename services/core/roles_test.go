package core

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/croft-os/croft/services/api"
)

// TestEveryOperationForEveryRole asks for each operation of openapi.json as everybody that there can be, and compares what
// comes with what the document says about them. Bodies are empty objects and ids nobody's: what is allowed is refused for
// another reason, and does no harm.
func TestEveryOperationForEveryRole(t *testing.T) {
	type actor struct {
		name, role string
		scopes     []string // of a token
		user       *user
	}
	var actors []actor
	nobody := func(b *box, where string) actor { return actor{name: "nobody, " + where, user: b.stranger()} }

	claimed := start(t)
	phone := claimed.stranger()
	phone.must(t, "POST", "/claim", api.ClaimRequest{Code: goodCode}, nil)
	actors = append(actors, nobody(claimed, "being set up"), actor{name: "setup", role: api.RoleSetup, user: phone})

	sick := start(t)
	sick.set(func(f *fakes) { f.system.Mode, f.system.Rescue = api.ModeRescue, &api.Rescue{Code: "no-marker"} })
	eventually(t, "rescue mode", func() bool {
		var v api.Setup
		sick.stranger().must(t, "GET", "/setup", nil, &v)
		return v.Step == api.StepRescue
	})
	helper := sick.stranger()
	helper.must(t, "POST", "/claim", api.ClaimRequest{Code: goodCode}, nil)
	actors = append(actors, nobody(sick, "in rescue mode"), actor{name: "rescue", role: api.RoleRescue, user: helper})

	b := start(t)
	anna := b.owned(t)
	ben := anna.joined(t, "Ben", api.RoleMember, "192.168.1.8")
	actors = append(actors, nobody(b, "at somebody's box"),
		actor{name: "member", role: api.RoleMember, user: ben}, actor{name: "owner", role: api.RoleOwner, user: anna})
	for _, scopes := range append([][]string{api.Scopes()}, slices.Collect(slices.Chunk(api.Scopes(), 1))...) {
		name := " token for " + strings.Join(scopes, ", ")
		actors = append(actors,
			actor{"owner's" + name, api.RoleOwner, scopes, anna.tokened(t, scopes...)},
			actor{"member's" + name, api.RoleMember, scopes, ben.tokened(t, scopes...)})
	}

	asked := 0
	for _, path := range slices.Sorted(maps.Keys(docPaths())) {
		for method, op := range docPaths()[path] {
			for _, a := range actors {
				if op.ID == "signOut" && a.role != "" {
					continue // it would be the last that they ask
				}
				want := ""
				switch {
				case slices.Contains(op.Who, "open"):
				case a.role == "":
					want = "signed-out"
				case !slices.Contains(op.Who, a.role), a.scopes != nil && !slices.Contains(a.scopes, op.scope()):
					want = "forbidden"
				}
				var body any
				if op.RequestBody != nil {
					body = "{}"
				}
				u := *a.user // cookies that come are not kept
				got := u.do(t, strings.ToUpper(method), strings.NewReplacer("{id}", "0", "{name}", "nothing").Replace(path), body)
				asked++
				refused := got.kind() == "signed-out" || got.kind() == "forbidden"
				switch {
				case want == "" && (refused || got.StatusCode == http.StatusUnauthorized):
					t.Errorf("%s may %s, but: %d %s", a.name, op.ID, got.StatusCode, got.kind())
				case want != "" && got.kind() != want:
					t.Errorf("%s may not %s, but: %d %s, want %s", a.name, op.ID, got.StatusCode, got.kind(), want)
				}
			}
		}
	}
	t.Logf("%d operations, %d who ask, %d requests", len(operations()), len(actors), asked)
	if asked < len(operations())*10 {
		t.Error("too few requests to prove anything")
	}
	for _, a := range actors { // and none of that changed who they are
		if a.role != "" && a.scopes == nil {
			var v api.Session
			if a.user.must(t, "GET", "/session", nil, &v); v.Role != a.role {
				t.Errorf("%s is %s now", a.name, v.Role)
			}
		}
	}
}

// A role that is taken away is gone at once, for sessions, tokens and streams.
func TestRoleTakenAway(t *testing.T) {
	b := start(t)
	anna := b.owned(t)
	ben := anna.joined(t, "Ben", api.RoleOwner, "192.168.1.8")
	script := ben.tokened(t, api.ScopePeople, api.ScopeBox)
	script.must(t, "GET", "/people", nil, nil)
	var people api.List[api.Person]
	anna.must(t, "GET", "/people", nil, &people)
	id := people.Items[1].ID
	anna.must(t, "PUT", "/people/"+id, api.PersonChange{Name: "Ben", Role: api.RoleMember}, nil)
	if a := script.do(t, "GET", "/people", nil); a.kind() != "forbidden" {
		t.Errorf("the token of one who is no owner any more: %d %s", a.StatusCode, a.kind())
	}
	script.must(t, "GET", "/services", nil, nil)
	if a := ben.do(t, "GET", "/people", nil); a.kind() != "signed-out" {
		t.Errorf("the session of one who is no owner any more: %d %s", a.StatusCode, a.kind())
	}
	anna.must(t, "DELETE", "/people/"+id, nil, nil)
	if a := script.do(t, "GET", "/services", nil); a.kind() != "signed-out" {
		t.Errorf("the token of nobody: %d %s", a.StatusCode, a.kind())
	}
}
