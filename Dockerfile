# syntax=docker/dockerfile:1

FROM rust:1-bookworm AS build
# Writes the list of dependencies into the program, where stripping leaves it: scanners (trivy, grype, cargo audit bin) read it
# there, and `syft` makes an SBOM of it.
RUN cargo install --locked --version 0.7.7 cargo-auditable
WORKDIR /src
COPY . .
ARG CARGO_PROFILE_RELEASE_STRIP=symbols
# The caches outlive the build, so the program is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo auditable build --release --locked --bin sidegate \
    && cp target/release/sidegate /usr/local/bin/

# libc, time zones and the CAs that the system trusts; distroless/cc would bring OpenSSL and C++ besides, and 8 MB.
FROM gcr.io/distroless/base-nossl-debian12:nonroot
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Sidegate" \
      org.opencontainers.image.description="A sidecar authorization proxy that verifies JWT access tokens without a look-up, issues them, and revokes them" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# The one library that it wants beyond libc's.
COPY --from=build /lib/*-linux-gnu/libgcc_s.so.1 /usr/lib/
COPY --from=build /usr/local/bin/sidegate /usr/local/bin/
COPY LICENSE /usr/share/doc/sidegate/
# Distroless's nonroot, by number, so that Kubernetes can see that it is not root.
USER 65532:65532
WORKDIR /
# What the configuration listens on decides; these are the ports that deploy/ uses.
EXPOSE 8080 9900
# For Docker and the like (`docker build`, or `--format docker` elsewhere). Kubernetes does not look at it: it asks the admin
# listener (/livez, /readyz, /startupz) itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/sidegate", "healthcheck", "--config", "/etc/sidegate/config.yaml"]
ENTRYPOINT ["/usr/local/bin/sidegate"]
# No configuration comes with the image, the demo's least of all: mount one.
CMD ["run", "--config", "/etc/sidegate/config.yaml"]
