# shellcheck shell=dash
# The file that churn.sh rewrites is written once, so that rewriting allocates nothing.
[ "$(stat -c %s /data/churn 2>/dev/null || echo 0)" = "$WORKING_SET" ] && exit
dd if=/dev/urandom of=/data/churn bs=65536 count=$((WORKING_SET / 65536)) status=none
truncate -s "$WORKING_SET" /data/churn
sync
