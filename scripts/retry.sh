# To be sourced: run a command that downloads something, and again if it fails, as a registry does now and then.
retry() {
  local further
  for further in 3 2 1; do
    if "$@"; then
      return
    fi
    echo "This command failed and is tried again, up to $further times: $*" >&2
    sleep 15
  done
  "$@"
}
