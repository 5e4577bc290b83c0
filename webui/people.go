package webui

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/croft-os/croft/services/api"
)

// peopleRoutes are the pages of who uses the box, for owners.
func peopleRoutes() []route {
	return []route{
		{"GET /people", whoOwner, (*visit).getPeople},
		{"GET /people/invite", whoOwner, (*visit).getInvite},
		{"POST /people/invite", whoOwner, (*visit).postInvite},
		{"POST /people/invite/{id}/withdraw", whoOwner, (*visit).postWithdraw},
		{"GET /people/{id}", whoOwner, (*visit).getPerson},
		{"POST /people/{id}", whoOwner, (*visit).postPerson},
		{"POST /people/{id}/sessions", whoOwner, (*visit).postPersonSessions},
		{"POST /people/{id}/password", whoOwner, (*visit).postPersonPassword},
		{"GET /people/{id}/remove", whoOwner, (*visit).getRemove},
		{"POST /people/{id}/remove", whoOwner, (*visit).postRemove},
	}
}

const (
	maxName       = 40 // characters of a person's name
	passwordHours = 24 // that an invitation for a new password holds
)

// hoursToJoin are how long an invitation can hold; the first is proposed.
func hoursToJoin() []int { return []int{24, 1, 72, 168} }

// peopleView is the list of people and of open invitations.
type peopleView struct {
	People  []personView
	Invites []inviteView
}

// personView is a person in words.
type personView struct {
	ID, Name, Role, Seen string
	SecondFactor         bool
	Waits                bool // for a password: the invitation was not taken yet
	You                  bool
}

// inviteView is an invitation that nobody took yet.
type inviteView struct {
	ID, For, By, Left string
}

func (v *visit) person(p api.Person) personView {
	return personView{
		ID: p.ID, Name: p.Name, Role: v.text.or("role."+p.Role, p.Role), Seen: v.text.seen(p.Seen), SecondFactor: p.SecondFactor,
		Waits: !p.HasPassword, You: v.session.Person.ID == p.ID,
	}
}

// seen says when somebody was here last, which core knows to the hour.
func (c catalogue) seen(t time.Time) string {
	switch d := time.Since(t); {
	case t.IsZero():
		return c.s("seen.never")
	case d < 2*time.Hour:
		return c.s("seen.now")
	default:
		return c.ago(t)
	}
}

func (v *visit) getPeople() {
	people, p, err := all[api.Person](v, "/api/v1/people")
	if p != nil || err != nil {
		v.failed(p, err)
		return
	}
	invites, p, err := all[api.Invite](v, "/api/v1/invites")
	if p != nil || err != nil {
		v.failed(p, err)
		return
	}
	view := peopleView{}
	for _, p := range people {
		view.People = append(view.People, v.person(p))
	}
	for _, i := range invites {
		view.Invites = append(view.Invites, v.invite(i))
	}
	v.render(http.StatusOK, v.page("people", view))
}

func (v *visit) invite(i api.Invite) inviteView {
	what := v.text.or("invite.for."+i.Role, i.Role)
	if i.Person != nil {
		what = v.text.s("invite.for.password", i.Person.Name)
	}
	return inviteView{i.ID, what, i.By, v.text.s("invite.left", v.text.duration(max(0, time.Until(i.Expires))))}
}

// personPage is the page of one person.
type personPage struct {
	trouble
	Person personView
	Name   input
	Role   choice
	Was    string // the role
	Last   bool   // the only owner, who therefore stays one
}

func (v *visit) getPerson() {
	if p, ok := v.lookUp(); ok {
		v.personPage(p, p.Name, p.Role, trouble{})
	}
}

// lookUp is the person that the address names, or it has answered.
func (v *visit) lookUp() (api.Person, bool) {
	var person api.Person
	p, err := v.call(http.MethodGet, v.personPath(), nil, &person)
	if p != nil || err != nil {
		v.failed(p, err)
		return person, false
	}
	return person, true
}

func (v *visit) personPath() string { return "/api/v1/people/" + url.PathEscape(v.r.PathValue("id")) }

func (v *visit) personPage(p api.Person, name, role string, t trouble) {
	last, ok := v.lastOwner(p)
	if !ok {
		return
	}
	v.render(t.status(), v.named("person", p.Name, personPage{
		trouble: t, Person: v.person(p), Was: p.Role, Last: last,
		Name: input{Name: "name", Label: v.text.s("person.name"), Hint: v.text.s("person.name.hint"), Value: name, Problem: t.Fields["name"], Max: maxName},
		Role: v.roles(role, t.Fields["role"]),
	}))
}

// named makes a page whose title is a name.
func (v *visit) named(kind, title string, data any) *page {
	p := v.page(kind, data)
	p.Title = title
	return p
}

// roles is the choice of a role.
func (v *visit) roles(role, problem string) choice {
	c := choice{Name: "role", Label: v.text.s("role.label"), Problem: problem, Groups: []group{{}}}
	for _, r := range []string{api.RoleMember, api.RoleOwner} {
		c.Groups[0].Options = append(c.Groups[0].Options, option{r, v.text.s("role." + r), v.text.s("role." + r + ".text"), r == role})
	}
	return c
}

// lastOwner says whether a person is the only owner who can sign in; ok is false if it has answered.
func (v *visit) lastOwner(of api.Person) (last, ok bool) {
	if of.Role != api.RoleOwner {
		return false, true
	}
	people, p, err := all[api.Person](v, "/api/v1/people")
	if p != nil || err != nil {
		v.failed(p, err)
		return false, false
	}
	return !slices.ContainsFunc(people, func(p api.Person) bool { return p.Role == api.RoleOwner && p.HasPassword && p.ID != of.ID }), true
}

func (v *visit) postPerson() {
	if !v.form() {
		return
	}
	req := api.PersonChange{Name: v.field("name"), Role: v.field("role")}
	p, err := v.call(http.MethodPut, v.personPath(), req, nil)
	if p == nil && err == nil {
		to, done := "/people", "person-changed"
		if was := v.field("was"); was != "" && was != req.Role {
			done = "role-changed" // which ends the person's sessions
		}
		if v.r.PathValue("id") == v.session.Person.ID { // who may be no owner any more
			to = "/me"
		}
		v.done(to, done)
		return
	}
	t, ok := v.trouble(p, err, map[string]string{"name": "name", "role": "role", "name-taken": "name", "last-owner": "role"})
	if !ok {
		return
	}
	if person, ok := v.lookUp(); ok {
		v.personPage(person, req.Name, req.Role, t)
	}
}

func (v *visit) postPersonSessions() {
	v.act(http.MethodDelete, v.personPath()+"/sessions", nil, "/people", "person-signed-out")
}

// act does what needs no answer but that it is done.
func (v *visit) act(method, path string, in any, to, done string) {
	if p, err := v.call(method, path, in, nil); p != nil || err != nil {
		v.failed(p, err)
		return
	}
	v.done(to, done)
}

func (v *visit) postPersonPassword() {
	person, ok := v.lookUp()
	if !ok {
		return
	}
	var invite api.Invite
	req := api.InviteRequest{Role: person.Role, Hours: passwordHours, Person: person.ID}
	if p, err := v.call(http.MethodPost, "/api/v1/invites", req, &invite); p != nil || err != nil {
		v.failed(p, err)
		return
	}
	v.invited(invite)
}

func (v *visit) getRemove() {
	person, ok := v.lookUp()
	if !ok {
		return
	}
	if last, ok := v.lastOwner(person); ok && last {
		v.redirect("/people/" + url.PathEscape(person.ID)) // where it says why not
	} else if ok {
		v.removePage(person, trouble{})
	}
}

func (v *visit) removePage(p api.Person, t trouble) {
	c := v.text
	v.ask("person-remove", askView{
		trouble: t, Up: "/people/" + url.PathEscape(p.ID), UpName: p.Name, Danger: true, Title: c.s("person-remove.title", p.Name),
		Lost: []string{c.s("person-remove.lost.account"), c.s("person-remove.lost.devices"), c.s("person-remove.lost.tokens")},
		Kept: []string{c.s("person-remove.kept.activity"), c.s("person-remove.kept.settings"), c.s("person-remove.kept.again")},
	})
}

func (v *visit) postRemove() {
	p, err := v.call(http.MethodDelete, v.personPath(), nil, nil)
	if p == nil && err == nil {
		if v.r.PathValue("id") == v.session.Person.ID {
			v.redirect("/")
			return
		}
		v.done("/people", "person-removed")
		return
	}
	t, ok := v.trouble(p, err, nil)
	if !ok {
		return
	}
	if person, ok := v.lookUp(); ok {
		v.removePage(person, t)
	}
}

// invitePage is the form to invite somebody.
type invitePage struct {
	trouble
	Role, Hours choice
}

func (v *visit) getInvite() { v.invitePage(api.RoleMember, hoursToJoin()[0], trouble{}) }

func (v *visit) invitePage(role string, hours int, t trouble) {
	c := choice{Name: "hours", Label: v.text.s("invite.hours"), Hint: v.text.s("invite.hours.hint"), Problem: t.Fields["hours"], Groups: []group{{}}}
	for _, h := range slices.Sorted(slices.Values(hoursToJoin())) {
		c.Groups[0].Options = append(c.Groups[0].Options, option{
			Value: strconv.Itoa(h), Label: v.text.duration(time.Duration(h) * time.Hour), On: h == hours,
		})
	}
	v.render(t.status(), v.page("invite", invitePage{t, v.roles(role, t.Fields["role"]), c}))
}

func (v *visit) postInvite() {
	if !v.form() {
		return
	}
	hours, err := strconv.Atoi(v.field("hours"))
	if err != nil {
		hours = 0 // core says what is wrong with it
	}
	req := api.InviteRequest{Role: v.field("role"), Hours: hours}
	var invite api.Invite
	p, err := v.call(http.MethodPost, "/api/v1/invites", req, &invite)
	if p == nil && err == nil {
		v.invited(invite)
		return
	}
	if t, ok := v.trouble(p, err, map[string]string{"role": "role", "hours": "hours"}); ok {
		v.invitePage(req.Role, req.Hours, t)
	}
}

// invitedPage shows an invitation, once.
type invitedPage struct {
	Text, Left string
	Code, URL  string
	Where      string // where the code can be typed
	QR         *qrView
	Share      string // what is sent along with the address
}

func (v *visit) invited(i api.Invite) {
	link := v.origin() + "/join#" + i.Code
	box, _, _ := strings.Cut(v.r.Host, ":")
	view := invitedPage{
		Text: v.text.or("invited.for."+i.Role, i.Role), Left: v.invite(i).Left, Code: i.Code, URL: link,
		Where: v.r.Host + "/join", QR: newQR(link, v.text.s("invited.qr")), Share: v.text.s("invited.share", box),
	}
	if i.Person != nil {
		view.Text = v.text.s("invited.for.password", i.Person.Name)
	}
	p := v.page("invited", view)
	p.Secret = true
	v.render(http.StatusCreated, p)
}

// origin is how the browser reached the box.
func (v *visit) origin() string { return scheme(v.r) + "://" + v.r.Host }

func (v *visit) postWithdraw() {
	v.act(http.MethodDelete, "/api/v1/invites/"+url.PathEscape(v.r.PathValue("id")), nil, "/people", "invite-withdrawn")
}
