// Package containerd runs containerd's own conformance suite for snapshotters on `nydus snapshotter`.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	programVariable = "NYDUS_TEST_PROGRAM"
	startTimeout    = 30 * time.Second
	stopTimeout     = 10 * time.Second
	pollInterval    = 20 * time.Millisecond
)

// TestSnapshotter has one subtest for each case of the suite, each with a snapshotter process of its own.
// It is called overlayfs, since the suite renames a lower layer's directory where the name says nothing of an overlay.
func TestSnapshotter(t *testing.T) {
	program := os.Getenv(programVariable)
	if program == "" {
		t.Fatalf("%s must name the nydus executable", programVariable)
	}
	testsuite.SnapshotterSuite(t, "overlayfs", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		return startSnapshotter(program, root)
	})
}

func startSnapshotter(program, root string) (snapshots.Snapshotter, func() error, error) {
	address := filepath.Join(root, "snapshotter.sock")
	log, err := os.Create(filepath.Join(root, "snapshotter.log"))
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	command := exec.Command(program, "snapshotter", "--address", address, "--root", filepath.Join(root, "state"))
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return nil, nil, err
	}
	exited := make(chan error, 1)
	go func() { exited <- command.Wait() }()

	if err := awaitSocket(address, exited); err != nil {
		_ = command.Process.Kill()
		text, _ := os.ReadFile(log.Name())
		return nil, nil, fmt.Errorf("%w: %s", err, text)
	}
	connection, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		_ = command.Process.Kill()
		return nil, nil, err
	}
	stop := func() error {
		return errors.Join(connection.Close(), terminate(command.Process, exited))
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "nydus"), stop, nil
}

func awaitSocket(address string, exited <-chan error) error {
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(pollInterval) {
		if connection, err := net.Dial("unix", address); err == nil {
			return connection.Close()
		}
		select {
		case err := <-exited:
			return fmt.Errorf("the snapshotter ended at once: %v", err)
		default:
		}
	}
	return fmt.Errorf("the snapshotter does not answer after %v", startTimeout)
}

// terminate asks a process to end; one that does not, or ends with another status than 0, is an error.
func terminate(process *os.Process, exited <-chan error) error {
	if err := process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-exited:
		return err
	case <-time.After(stopTimeout):
		_ = process.Kill()
		return fmt.Errorf("the snapshotter did not end within %v of SIGTERM", stopTimeout)
	}
}
