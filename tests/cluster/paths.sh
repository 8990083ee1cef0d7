# Where build keeps the programs of programs/: under the hash of what each is made from. For sourcing, by a script of this folder.
export HOME="${HOME:-/root}" # Go wants one
cache=${HEDDLE_CLUSTER_CACHE:-$HOME/.cache/heddle-cluster}
here=$(cd "$(dirname "$0")" && pwd)
state=${HEDDLE_CLUSTER_STATE:-/tmp/onenode}

# The path of the built program NAME, whether it is there yet or not.
program() {
	hash=$(cd "$here/programs/$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-16)
	printf '%s/%s-%s/%s\n' "$cache" "$1" "$hash" "$1"
}

# The same, built if need be.
built() {
	path=$(program "$1")
	[ -x "$path" ] || "$here/build" "$1" >&2 || return
	printf '%s\n' "$path"
}

# The cluster is never behind a proxy.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
