# syntax=docker/dockerfile:1

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive the build, so the program is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin sidegate \
    && install -D target/release/sidegate /out/usr/local/bin/sidegate \
    && install -D -m 0644 LICENSE /out/usr/share/doc/sidegate/LICENSE

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out /
# Distroless's nonroot, by number, so that Kubernetes can see that it is not root.
USER 65532:65532
WORKDIR /
# What the configuration listens on decides; these are the ports that deploy/ uses.
EXPOSE 8080 8443 9900
# No HEALTHCHECK: there is no shell or curl in here, and no `healthcheck` subcommand yet. Kubernetes asks the admin
# listener (/livez, /readyz, /startupz) itself.
ENTRYPOINT ["/usr/local/bin/sidegate"]
# No configuration comes with the image, the demo's least of all: mount one.
CMD ["run", "--config", "/etc/sidegate/config.yaml"]
