"""Images without a registry: stand-ins for the Dockerfile's bases, made of Debian's packages, and podman on a storage of the test's own."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import rig
from rig import ROOT, run

PACKAGES = ROOT / "target/test-tools/debian"
# What the Dockerfile takes, and the packages that are in it (distroless) or that the build stage needs here.
BUILD = "docker.io/library/rust:1-bookworm"
BASE = "gcr.io/distroless/base-nossl-debian12:nonroot"
# Takes the place of a compiler: the program of target/debug is there already.
CARGO = """#!/bin/sh
set -e
case "$*" in
    "install --locked --version "*" cargo-auditable") ;;
    "auditable build --release --locked --bin sidegate") mkdir -p target/release; cp /sidegate target/release/sidegate ;;
    *) echo "what is: cargo $*" >&2; exit 1 ;;
esac
"""


class Engine:
    """buildah and podman in a folder of their own, which is gone at the end."""

    def __init__(self):
        for name in ("buildah", "podman", "runc", "nsenter", "strip"):
            rig.tool(name)
        if os.getuid() != 0:
            rig.skip("images are built and run by root here")
        # In /tmp: podman takes no longer paths than 50 characters.
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="sidegate-"))
        conf = self.home / "containers.conf"
        # No more than this process may have itself: who cannot raise a limit is refused otherwise.
        conf.write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
                        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n')
        # There is no systemd here whose timers would ask for health.
        self.environment = dict(CONTAINERS_CONF=str(conf), DISABLE_HC_SYSTEMD="true", TMPDIR=str(self.home))
        os.environ.update(self.environment)
        self.storage = ("--root", self.home / "images", "--runroot", self.home / "run", "--storage-driver", "vfs")

    def close(self):
        subprocess.run(["podman", *self.storage, "pod", "rm", "--all", "--force"], capture_output=True)
        shutil.rmtree(self.home, ignore_errors=True)
        # Other tests have no such folder.
        for name in self.environment:
            del os.environ[name]

    def podman(self, *command):
        return run("podman", *self.storage, *command)

    def build(self, tag, folder, *arguments):
        return run("buildah", *self.storage, "bud", "--isolation", "chroot", "--format", "docker", "--pull-never", "--tag", tag,
                   *arguments, folder)

    def build_of_packages(self, tag, packages, files=(), links=(), rest=""):
        """An image of the files of packages alone, and some of one's own: (path, text, or a file to copy)."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.home))
        root = folder / "root"
        for package in packages:
            archive, = PACKAGES.glob(f"{package}_*.deb")
            run("dpkg-deb", "--extract", archive, root)
        for path, content in files:
            path = root / path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content.read_bytes())
            path.chmod(0o755)
        for link, target in links:
            (root / link).symlink_to(target)
        # As distroless has them.
        shutil.rmtree(root / "usr/share/man", ignore_errors=True)
        (folder / "Dockerfile").write_text("FROM scratch\nCOPY root /\n" + rest)
        self.build(tag, folder)

    def stand_ins(self, program):
        self.build_of_packages(BASE, ("base-files", "ca-certificates", "libc6", "netbase", "tzdata"), rest="USER 65532\n")
        applets = [(f"bin/{name}", "busybox") for name in ("sh", "cp", "mkdir")]
        self.build_of_packages(BUILD, ("busybox-static", "libgcc-s1"), [("usr/local/bin/cargo", CARGO), ("sidegate", program)], applets)
