#!/bin/sh
# Counts the public items of tdx-host, and how many of them are its front door.
#
# Reads the pages that `cargo doc` writes: modules, types, traits, functions and constants are
# pages; methods, variants and fields are anchors on them. Items of private modules have no page,
# re-exports count once. Trait implementations are not counted. The front door is what `tdx_host::`
# exports by name, and the methods of `Host`.
#
# Usage: checks/public-items.sh [CRATE]
set -eu
export LC_ALL=C
crate=${1:-tdx-host}
cd "$(dirname "$0")/.."
docs=${CARGO_TARGET_DIR:-target}/doc/$(echo "$crate" | tr - _)
# Pages of items that are gone would be counted.
rm -rf "$docs"
cargo doc --quiet --package "$crate" --no-deps

# Pages that only redirect are the private paths of re-exported items.
pages=$(find "$docs" -name '*.html' -exec grep -L 'http-equiv="refresh"' {} + | sort)

count_pages() {
	echo "$pages" | grep -c "/$1\.[^/]*html\$" || true
}

# Distinct anchors of a page, up to its trait implementations.
count_anchors() {
	for page in $pages; do
		tr -d '\n' <"$page" | sed 's/id="trait-implementations".*//;s/id="/\n&/g' |
			sed -n "s/^id=\"\\($1\\.[^\"]*\\)\".*/\\1/p" | sort -u
	done | wc -l
}

total=0
report() {
	printf '%-26s %5d\n' "$1" "$2"
}
for kind in index struct enum trait fn constant static type macro; do
	count=$(count_pages "$kind")
	total=$((total + count))
	[ "$kind" = index ] && kind=module
	[ "$count" -eq 0 ] || report "$kind" "$count"
done
for kind in method tymethod associatedconstant associatedtype; do
	count=$(count_anchors "$kind")
	total=$((total + count))
	report "$kind" "$count"
done
report 'public items' "$total"
report '  and variants' "$(count_anchors variant)"
report '  and fields' "$(count_anchors structfield)"

front=$(sed 's/id="/\n&/g' "$docs/index.html" | grep -c '^id="reexport\.' || true)
methods=0
host=$docs/host/struct.Host.html
[ -e "$host" ] || host=$docs/struct.Host.html
if [ -e "$host" ]; then
	pages=$host
	methods=$(count_anchors method)
fi
report 'front door: names' "$front"
report 'front door: Host methods' "$methods"
