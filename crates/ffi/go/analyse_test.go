package portcullis_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"portcullis"
)

func TestQuestionsAboutAllFlows(t *testing.T) {
	e := engine(t)
	var explained struct {
		Verdict     string
		Destination struct{ Pod string }
	}
	text, err := e.ExplainJSON(flow("10.0.0.1", "10.0.0.2", 22))
	if err != nil || json.Unmarshal(text, &explained) != nil || explained.Verdict != "deny" || explained.Destination.Pod != "shop/db-0" {
		t.Error(string(text), err)
	}
	var diff struct {
		Changes []struct{ From, To struct{ Verdict string } }
	}
	text, err = e.DiffJSON(nil, nil)
	if err != nil || json.Unmarshal(text, &diff) != nil || len(diff.Changes) == 0 || diff.Changes[0].To.Verdict != "allow" {
		t.Error(string(text), err)
	}
	if text, err = e.DiffJSON(nil, documents("policies.yaml", policies)); err != nil || string(text) != `{"changes":[]}` {
		t.Error(string(text), err)
	}
	db := portcullis.EndpointName{Namespace: "shop", Name: "db-0"}
	if text, err := e.Reach(db, portcullis.Ingress); err != nil || !strings.Contains(text, "web-0") {
		t.Error(text, err)
	}
	var reach struct{ Endpoint, Way string }
	if text, err := e.ReachJSON(db, portcullis.Egress); err != nil || json.Unmarshal(text, &reach) != nil ||
		reach.Endpoint != "shop/db-0" || reach.Way != "from" {
		t.Error(string(text), err)
	}
	for _, wrong := range []portcullis.EndpointName{{Namespace: "shop", Name: "nobody"}, {Namespace: "shop", Name: "a\x00b"}} {
		if _, err := e.Reach(wrong, portcullis.Ingress); !errors.Is(err, portcullis.BadValue) {
			t.Error(wrong, err)
		}
	}
	if _, err := e.Reach(db, 0); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	useless := strings.ReplaceAll(policies, "app: db", "app: nosuch")
	findings, err := e.Lint(documents("useless.yaml", useless))
	if err != nil || len(findings) == 0 || findings[0].Origin == nil || findings[0].Origin.File != "useless.yaml" ||
		findings[0].Code == "" || findings[0].Message == "" {
		t.Errorf("%+v, %v", findings, err)
	}
	if _, err := e.Lint(nil); err != nil {
		t.Error(err)
	}
	if _, err := e.Lint(documents("broken.yaml", "kind: [")); !errors.Is(err, portcullis.Refused) {
		t.Error(err)
	}
}

func TestRulesInPartsAndCounts(t *testing.T) {
	e := engine(t)
	r, err := e.NewRecorder(portcullis.RecorderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out := make([]portcullis.Judgement, 2)
	packets := [][]byte{tcp(1, 40000, 2, 5432, syn, 1, 0), tcp(1, 40000, 2, 22, syn, 1, 0)}
	if err := judge(t, e).Packets(packets, out); err != nil {
		t.Fatal(err)
	}
	rule, err := e.RuleInfo(out[0].Rule)
	wanted := portcullis.RuleInfo{
		Policy: "NetworkPolicy/shop/web-to-db", Tier: "default", Direction: portcullis.Ingress,
		Action: portcullis.ActionAllow, Origin: portcullis.Origin{File: "policies.yaml", Line: 7, Column: 13},
	}
	if err != nil || rule != wanted {
		t.Errorf("%+v, %v", rule, err)
	}
	if rule, err := e.RuleInfo(out[1].Rule); err != nil || !rule.TierEnd || rule.Action != portcullis.ActionDeny {
		t.Errorf("%+v, %v", rule, err)
	}
	if _, err := e.RuleInfo(portcullis.NoRule); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	// Names that take more room than most.
	long := strings.Repeat("long/", 1000)
	if _, err := e.SetPolicies(documents(long, policies)); err != nil {
		t.Fatal(err)
	}
	if err := judge(t, e).Packets(packets[:1], out); err != nil {
		t.Fatal(err)
	}
	if rule, err := e.RuleInfo(out[0].Rule); err != nil || rule.Origin.File != long {
		t.Errorf("%+v, %v", rule, err)
	}
	totals, err := e.Totals()
	if err != nil || totals.DroppedBytes[out[1].Reason] != 54 || totals.Mirrored != 0 || totals.LostByKind != [5]uint64{} {
		t.Errorf("%+v, %v", totals, err)
	}
	if _, _, err := r.Read(); err != nil {
		t.Fatal(err)
	}
	if recorded, err := r.Recorded(); err != nil || recorded.Started != 1 || recorded.DeniedPackets != 1 || recorded.DeniedWaiting != 1 {
		t.Errorf("%+v, %v", recorded, err)
	}
}

func TestEndpointsAreReadBack(t *testing.T) {
	e := engine(t)
	given := portcullis.Endpoint{
		Namespace: "tools", Name: "probe", ServiceAccount: "watch", Node: "node-1", HostNetwork: true,
		Labels:    map[string]string{"a/b": "\"quoted\"", "c": ""},
		Ports:     []portcullis.NamedPort{{Name: "dns", Protocol: 17, Port: 53}},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")},
	}
	if _, err := e.Upsert(given); err != nil {
		t.Fatal(err)
	}
	endpoints, err := e.Endpoints()
	if err != nil || len(endpoints) != 3 {
		t.Fatalf("%+v, %v", endpoints, err)
	}
	for _, found := range endpoints {
		if found.Name == "probe" && !reflect.DeepEqual(found, given) {
			t.Errorf("%+v", found)
		}
	}
	// What is read back may be given again.
	if err := e.ReplaceEndpoints(endpoints); err != nil {
		t.Error(err)
	}
	if again, err := e.Endpoints(); err != nil || !reflect.DeepEqual(again, endpoints) {
		t.Errorf("%+v, %v", again, err)
	}
}

func ExampleEngine_Lint() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	if _, err := engine.Apply(documents("cluster.yaml", cluster), nil); err != nil {
		log.Fatal(err)
	}
	findings, err := engine.Lint(documents("next-week.yaml", strings.ReplaceAll(policies, "app: web", "app: wbe")))
	if err != nil {
		log.Fatal(err)
	}
	for _, finding := range findings {
		if finding.Origin != nil { // some are about what is nowhere written
			fmt.Println(finding.Level, finding.Code, "in line", finding.Origin.Line)
		}
	}
	// Output: warning matches-nobody in line 7
}
