#!/usr/bin/env bash
# controller-runtime 0.22.5 and client-go 0.36.3, Go 1.26: go.mod takes both, the compiler refuses.
#
# controller-runtime asks for client-go v0.34 or newer, and Go's minimal version selection gives it 0.36.3 without a
# word. client-go 0.36 has added a method (HasSyncedChecker) to the interface ResourceEventHandlerRegistration, which
# controller-runtime's multi-namespace cache implements itself, so that the package does not compile. From 0.23 on
# controller-runtime compiles with it, and has another signature of NewWebhookManagedBy, which operators written for
# 0.22 (KubeRay 1.6.2 is one) do not compile with. One would guess that a newer client-go goes with the newest patch
# release of an older controller-runtime.
#
# Seen on 2026-11-29: "handlerRegistration does not implement ... (missing method HasSyncedChecker)".
# Exit status 0 while it is so. Needs Go and the Go module proxy; takes a minute.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat >go.mod <<'MODULE'
module example.test/finding

go 1.26.0

require (
	k8s.io/api v0.36.3
	k8s.io/apimachinery v0.36.3
	k8s.io/client-go v0.36.3
	sigs.k8s.io/controller-runtime v0.22.5
)
MODULE
cat >main.go <<'SOURCE'
package main

import _ "sigs.k8s.io/controller-runtime/pkg/cache"

func main() {}
SOURCE
go mod tidy >/dev/null 2>&1
go list -m k8s.io/client-go sigs.k8s.io/controller-runtime
if output=$(go build -o program . 2>&1); then
	echo "changed: it compiles"
	exit 1
fi
grep --max-count=1 'missing method HasSyncedChecker' <<<"$output" || {
	echo "changed: it fails for another reason"
	echo "$output" | tail -n 5
	exit 1
}
