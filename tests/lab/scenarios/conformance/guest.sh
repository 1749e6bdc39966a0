. /lab/check.sh
timeout 240 xen-conformance frontend --peer 0
