package portcullis_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"strings"

	"portcullis"
)

func Example() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	_, err = engine.Apply(
		[]portcullis.Document{{Name: "cluster.yaml", Data: []byte(cluster)}},
		[]portcullis.Document{{Name: "policies.yaml", Data: []byte(policies)}})
	if err != nil {
		log.Fatal(err)
	}
	judge, err := engine.NewJudge()
	if err != nil {
		log.Fatal(err)
	}
	defer judge.Close()

	web, db := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	flows := []portcullis.Flow{
		{Source: web, Destination: db, Protocol: 6, SourcePort: 40000, DestinationPort: 5432},
		{Source: web, Destination: db, Protocol: 6, SourcePort: 40000, DestinationPort: 22},
	}
	judgements := make([]portcullis.Judgement, len(flows))
	if err := judge.Flows(flows, judgements); err != nil {
		log.Fatal(err)
	}
	for n, judgement := range judgements {
		fmt.Println(flows[n].DestinationPort, judgement.Verdict, judgement.Reason)
	}
	// Output:
	// 5432 allow none
	// 22 deny policy_denied
}

func ExampleEngine_Apply_refused() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	_, err = engine.Apply(nil, []portcullis.Document{{Name: "policies.yaml", Data: []byte("kind: Nonsense")}})
	fmt.Println(errors.Is(err, portcullis.Refused))
	// Output: true
}

func ExampleEngine_Upsert() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	done, err := engine.Upsert(portcullis.Endpoint{
		Namespace: "shop",
		Name:      "web-1",
		Labels:    map[string]string{"app": "web"},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.3")},
	})
	if err != nil {
		log.Fatal(err)
	}
	removed, err := engine.Remove(portcullis.EndpointName{Namespace: "shop", Name: "web-1"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(done, removed)
	// Output: 1 1
}

func ExampleEngine_Events() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // an agent does this when it shuts down
	events := make([]portcullis.Event, 256)
	for {
		n, err := engine.Events(ctx, events)
		if err != nil {
			fmt.Println(err)
			break
		}
		for _, event := range events[:n] {
			if event.Kind == portcullis.Dropped {
				fmt.Println(event.Source, event.Destination, event.Reason, event.Policy)
			}
		}
	}
	engine.Close()
	// Output: context canceled
}

func ExampleEngine_Start() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	firewall, err := engine.Start(portcullis.Wire{A: "nosuch0", B: "nosuch1", Fail: portcullis.FailClosed})
	if err != nil {
		fmt.Println("not started")
		return
	}
	defer firewall.Close()
	// Output: not started
}

func ExampleJudge_Packets() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	if _, err := engine.Apply(documents("cluster.yaml", cluster), documents("policies.yaml", policies)); err != nil {
		log.Fatal(err)
	}
	judge, err := engine.NewJudge()
	if err != nil {
		log.Fatal(err)
	}
	defer judge.Close()

	packets := [][]byte{
		tcp(1, 40000, 2, 5432, syn, 100, 0),      // web asks db
		tcp(2, 5432, 1, 40000, synAck, 500, 101), // db answers
		tcp(2, 5432, 1, 40001, syn, 500, 0),      // and asks on its own
		tcp(1, 40000, 2, 22, syn, 100, 0),        // web asks for something else
	}
	judgements := make([]portcullis.Judgement, len(packets))
	if err := judge.Packets(packets, judgements); err != nil {
		log.Fatal(err) // none of them may pass
	}
	for _, judgement := range judgements {
		fmt.Println(judgement.Verdict, judgement.Reason)
	}
	for _, frame := range judge.Outgoing() {
		fmt.Println(len(frame.Data), "bytes to send besides")
	}
	// Output:
	// allow none
	// allow none
	// allow none
	// deny policy_denied
}

func ExampleEngine_ReplaceSet() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	if _, err := engine.Apply(nil, documents("feed.yaml", feed)); err != nil {
		log.Fatal(err)
	}
	threats := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	if err := engine.ReplaceSet("GlobalNetworkSet//feed", threats); err != nil {
		log.Fatal(err)
	}
	sets, err := engine.Sets()
	fmt.Println(sets, err)
	// Output: [{GlobalNetworkSet//feed 2}] <nil>
}

func ExampleEngine_RuleTotals() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	rules, err := engine.RuleTotals()
	if err != nil {
		log.Fatal(err)
	}
	for _, rule := range rules {
		name, err := engine.Rule(rule.Rule)
		if err != nil {
			name = "no rule"
		}
		fmt.Println(name, rule.Passed, rule.Refused)
	}
	// Output:
}

func ExampleEngine_Stage() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	if err := engine.Stage(documents("next-week.yaml", policies)); err != nil {
		log.Fatal(err)
	}
	staged, err := engine.Staged()
	fmt.Println(staged, err)
	// Output: 1 <nil>
}

func ExampleRecorder_Read() {
	engine, err := portcullis.New(portcullis.Config{DeniedBurst: 10})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	recorder, err := engine.NewRecorder(portcullis.RecorderConfig{Keep: "denied"})
	if err != nil {
		log.Fatal(err)
	}
	defer recorder.Close()
	for n := 0; n < 3; n++ { // an agent does this until it ends
		records, _, err := recorder.Read()
		if err != nil {
			log.Fatal(err)
		}
		for _, record := range records {
			fmt.Println(string(record))
		}
	}
	// Output:
}

func ExampleFirewall_AddWire() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	// Two workers, no wire yet: pods come later.
	firewall, err := engine.Start(portcullis.Wire{Workers: 2})
	if errors.Is(err, portcullis.NoXDP) {
		log.Fatal(err)
	}
	defer firewall.Close()
	err = firewall.AddWire(portcullis.Link{A: "nosuch0", B: "nosuch1", Name: "pod-7", SmallRings: true})
	fmt.Println(errors.Is(err, portcullis.Interface))
	changes, err := firewall.PortChanges() // an agent asks every second
	fmt.Println(changes, err)
	// Output:
	// true
	// [] <nil>
}

func ExampleEngine_ApplyPolicies() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	pod := func(name, app, address string) portcullis.Endpoint {
		return portcullis.Endpoint{
			Namespace: "shop", Name: name, Labels: map[string]string{"app": app},
			Addresses: []netip.Addr{netip.MustParseAddr(address)},
		}
	}
	database := portcullis.MatchAll(
		portcullis.MatchNamespace("shop"), portcullis.MatchPodWith(map[string]string{"app": "db"}))
	policies := portcullis.PolicySet{Tiers: []portcullis.Tier{{Name: "default", Policies: []portcullis.Policy{{
		Namespace: "shop", Name: "db", Subject: database, Directions: portcullis.Ingress,
		Ingress: []portcullis.Rule{{
			Action:      portcullis.ActionAllow,
			Source:      portcullis.MatchPodLabels("app in {'web', 'api'}"),
			Destination: portcullis.MatchAny(),
			Traffic:     []portcullis.Traffic{portcullis.TCP(portcullis.OnePort(5432))},
		}},
	}}}}}
	cluster := portcullis.Cluster{Endpoints: []portcullis.Endpoint{pod("web-0", "web", "10.0.0.1"), pod("db-0", "db", "10.0.0.2")}}
	applied, err := engine.ApplyPolicies(&cluster, policies)
	fmt.Println(applied.Policies, applied.Endpoints, err)

	// What is wrong is named. Without a cluster the one in force stays.
	policies.Tiers[0].Policies[0].Ingress[0].Source = portcullis.MatchPodLabels("app = 'web'")
	_, err = engine.ApplyPolicies(nil, policies)
	where, _, _ := strings.Cut(err.Error(), ": expected")
	fmt.Println(where)
	// Output:
	// 1 2 <nil>
	// portcullis: ApplyPolicies: error: NetworkPolicy/shop/db: ingress rule 0: source: selector `app = 'web'`: at offset 4
}

func ExampleEngine_Zone() {
	engine, err := portcullis.New(portcullis.Config{Tunnels: []portcullis.Tunnel{
		{Kind: portcullis.VXLAN, VNI: 42, Zone: 1}, // one tenant
		{Kind: portcullis.VXLAN, VNI: 43, Zone: 2}, // another, perhaps with the same addresses
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	if _, err := engine.Apply(nil, nil); err != nil { // packets outside of tunnels
		log.Fatal(err)
	}
	tenant := engine.Zone(1)
	if _, err := tenant.Apply(documents("cluster.yaml", cluster), documents("policies.yaml", policies)); err != nil {
		log.Fatal(err)
	}
	verdict, rule, err := tenant.Evaluate(portcullis.Flow{
		Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddr("10.0.0.2"),
		Protocol: 6, SourcePort: 40000, DestinationPort: 5432,
	})
	fmt.Println(verdict, rule, err)
	_, err = engine.Zone(2).Applied()
	fmt.Println(errors.Is(err, portcullis.NoSuchZone))
	// Output:
	// allow NetworkPolicy/shop/web-to-db ingress policies.yaml:7:13 <nil>
	// true
}

func ExampleEngine_LimitRates() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	err = engine.LimitRates(portcullis.Rates{
		// Each workload 100,000 packets a second, and all backups together 10 MB a second.
		Identity: &portcullis.Rate{PerSecond: 100_000},
		Rules: []portcullis.RuleRate{{
			Rule: portcullis.RuleName{Policy: "NetworkPolicy/shop/backup"},
			Rate: portcullis.Rate{Unit: portcullis.Bytes, PerSecond: 10_000_000},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	unknown, err := engine.UnknownRules() // it may come later, or be misspelt
	fmt.Println(unknown, err)
	// Output: [NetworkPolicy/shop/backup] <nil>
}

func ExampleEngine_Mirror() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	// Wire.Mirror names the interface that they leave by.
	err = engine.Mirror(&portcullis.Mirrored{
		Verdicts: []portcullis.Verdict{portcullis.Deny},
		Rules:    []portcullis.RuleName{{Policy: "NetworkPolicy/shop/db", Direction: portcullis.Ingress}},
	})
	fmt.Println(err, engine.Mirror(nil))
	// Output: <nil> <nil>
}

func ExampleJudge_Outgoing() {
	engine, err := portcullis.New(portcullis.Config{RejectDenied: true})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	if _, err := engine.Apply(documents("cluster.yaml", cluster), documents("policies.yaml", policies)); err != nil {
		log.Fatal(err)
	}
	judge, err := engine.NewJudge()
	if err != nil {
		log.Fatal(err)
	}
	defer judge.Close()
	judgements := make([]portcullis.Judgement, 1)
	if err := judge.Packets([][]byte{tcp(1, 40000, 2, 22, syn, 100, 0)}, judgements); err != nil {
		log.Fatal(err)
	}
	fmt.Println(judgements[0].Verdict)
	for _, frame := range judge.Outgoing() {
		if frame.Answer {
			fmt.Println("to be sent back for packet", frame.Packet, "-", len(frame.Data), "bytes")
		} else {
			fmt.Println("to be sent on:", len(frame.Data), "bytes")
		}
	}
	// Output:
	// reject
	// to be sent back for packet 0 - 54 bytes
}

func ExampleEngine_SaveConnections() {
	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	var file bytes.Buffer // a file that is written anew, synced and renamed
	saved, err := engine.SaveConnections(&file)
	fmt.Println(saved, err)

	next, err := portcullis.New(portcullis.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer next.Close()
	restored, err := next.RestoreConnections(&file, portcullis.WindowsHold)
	fmt.Println(restored.Restored, err)
	// Output:
	// 0 <nil>
	// 0 <nil>
}
