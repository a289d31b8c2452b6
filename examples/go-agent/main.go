// A small firewall agent: a wire between two interfaces, policies from files, endpoints from standard
// input, denied flows as JSON on standard output.
//
//	go run . LEFT RIGHT POLICIES
//
// Lines of standard input add and remove endpoints while packets flow:
//
//	add NAMESPACE/NAME ADDRESS [KEY=VALUE...]
//	remove NAMESPACE/NAME
//
// It ends with standard input, or at SIGTERM.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"portcullis"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: go-agent LEFT RIGHT POLICIES")
	}
	policies, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	engine, err := portcullis.New(portcullis.Config{})
	if err != nil {
		return err
	}
	defer engine.Close()
	documents := []portcullis.Document{{Name: args[2], Data: policies}}
	if _, err := engine.Apply(nil, documents); err != nil {
		return err
	}
	firewall, err := engine.Start(portcullis.Wire{A: args[0], B: args[1]})
	if err != nil {
		return err
	}
	defer firewall.Close()
	ports, err := firewall.Ports()
	if err != nil {
		return err
	}
	for _, port := range ports {
		fmt.Fprintf(os.Stderr, "%s: %s, %d queues\n", port.Name, port.Mode, port.Queues)
	}
	fmt.Fprintln(os.Stderr, "ready")

	go func() {
		follow(engine, os.Stdin)
		stop()
	}()
	return logDenied(ctx, engine)
}

// follow does what the lines say; a line that is refused changes nothing.
func follow(engine *portcullis.Engine, lines *os.File) {
	scanner := bufio.NewScanner(lines)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) == 0 {
			continue
		}
		if err := change(engine, fields); err != nil {
			fmt.Fprintln(os.Stderr, err)
		} else {
			fmt.Fprintln(os.Stderr, "done:", scanner.Text())
		}
	}
}

func change(engine *portcullis.Engine, fields []string) error {
	bad := fmt.Errorf("error: %q: add NAMESPACE/NAME ADDRESS [KEY=VALUE...], or remove NAMESPACE/NAME",
		strings.Join(fields, " "))
	if len(fields) < 2 {
		return bad
	}
	namespace, name, ok := strings.Cut(fields[1], "/")
	if !ok {
		return bad
	}
	switch {
	case fields[0] == "add" && len(fields) >= 3:
		address, err := netip.ParseAddr(fields[2])
		if err != nil {
			return err
		}
		labels := make(map[string]string)
		for _, field := range fields[3:] {
			key, value, ok := strings.Cut(field, "=")
			if !ok {
				return bad
			}
			labels[key] = value
		}
		_, err = engine.Upsert(portcullis.Endpoint{
			Namespace: namespace, Name: name,
			Labels: labels, Addresses: []netip.Addr{address},
		})
		return err
	case fields[0] == "remove" && len(fields) == 2:
		removed, err := engine.Remove(portcullis.EndpointName{Namespace: namespace, Name: name})
		if err == nil && removed == 0 {
			return fmt.Errorf("error: no endpoint %s", fields[1])
		}
		return err
	}
	return bad
}

type denied struct {
	Time        time.Time `json:"time"`
	Source      string    `json:"source"`
	Destination string    `json:"destination"`
	Protocol    uint8     `json:"protocol"`
	From        string    `json:"from,omitempty"`
	To          string    `json:"to,omitempty"`
	Reason      string    `json:"reason"`
	Policy      string    `json:"policy"`
}

// logDenied writes denied flows until the context ends.
func logDenied(ctx context.Context, engine *portcullis.Engine) error {
	events := make([]portcullis.Event, 256)
	out := json.NewEncoder(os.Stdout)
	for {
		count, err := engine.Events(ctx, events)
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, event := range events[:count] {
			if event.Kind != portcullis.Dropped {
				continue
			}
			record := denied{
				event.Time, event.Source.String(), event.Destination.String(), event.Protocol,
				event.From.Name, event.To.Name, event.Reason.String(), event.Policy,
			}
			if err := out.Encode(record); err != nil {
				return err
			}
		}
	}
}
