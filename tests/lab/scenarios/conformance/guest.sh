. /lab/check.sh
timeout 120 xen-conformance frontend --peer 0
