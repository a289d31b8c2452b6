package portcullis_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"

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
