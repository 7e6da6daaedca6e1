#!/bin/sh
# Uploads a picture, reads it back, shows what a refusal looks like, and takes the picture back:
#   sh examples/curl.sh holiday.jpg [BACKEND]
# BACKEND is the stand-in that `media-storage dev` starts, unless another is named; the examples here have the same accounts.
set -eu
picture=$1
backend=${2:-http://127.0.0.1:8102}
here=$(mktemp -d)
trap 'rm -r "$here"' EXIT

curl -sS --fail-with-body -c "$here/cookies" -H 'Content-Type: application/json' -d '{"name": "alice", "password": "picture"}' "$backend/auth/sign-in"

echo "== upload: --retry waits as long as Retry-After says on a 429 or 503"
curl -sS --fail-with-body --retry 3 -b "$here/cookies" -F "file=@$picture" "$backend/media/upload" | tee "$here/answer.json"
url=$(sed -n 's/.*"url": *"\([^"]*\)".*/\1/p' "$here/answer.json")

echo "== read: anyone may, -L follows to the store"
curl -sS --fail-with-body -L -o "$here/copy" "$url"
cmp "$picture" "$here/copy" && echo "the same picture from $url"

echo "== a refusal: this script is no picture"
curl -sS -b "$here/cookies" -F "file=@$0" -w '%{http_code} %{content_type}\n' "$backend/media/upload"

echo "== take it back"
curl -sS --fail-with-body -X DELETE -b "$here/cookies" -w '%{http_code}\n' "$backend/media/${url#*/media/}"
