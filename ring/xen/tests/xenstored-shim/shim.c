/*
 * Stands in for the hypervisor under Debian's C xenstored 4.17, so that the real server runs on any machine.
 *
 * Preloaded into xenstored. Everything happens in the folder $XEN_SHIM_DIR:
 *   domN.ring     the page a domain shares with xenstored (struct xenstore_domain_interface); while the file is
 *                 there, the domain exists
 *   events        datagram socket where xenstored is signalled: 4 bytes, the local port
 *   domN.events   datagram socket where domain N is signalled: any datagram
 * Local ports: 1 is VIRQ_DOM_EXC ("a domain's state changed"), 16 + N is domain N's channel.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>

enum { VIRQ_PORT = 1, FIRST_DOMAIN_PORT = 16, PAGE = 4096 };

static int events = -1;
static char handle; /* what every opaque handle points at */

static void in_folder(char *path, size_t size, const char *format, unsigned number)
{
	const char *folder = getenv("XEN_SHIM_DIR");
	int used = snprintf(path, size, "%s/", folder ? folder : ".");

	if (used > 0 && (size_t)used < size)
		snprintf(path + used, size - used, format, number);
}

static int real_open(const char *path, int flags, mode_t mode)
{
	return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static int open_ring(unsigned domid, int create)
{
	char path[512];
	int fd;

	in_folder(path, sizeof(path), "dom%u.ring", domid);
	fd = real_open(path, O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0600);
	if (fd >= 0 && create && ftruncate(fd, PAGE)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Linux tells xenstored in dom0 through two files of /proc/xen where dom0's own ring and channel are. */
int open(const char *path, int flags, ...)
{
	const char *name = strrchr(path, '/');
	va_list arguments;
	mode_t mode = 0;

	if (name && !strcmp(name, "/xsd_kva"))
		return open_ring(0, 1);
	if (name && !strcmp(name, "/xsd_port")) {
		int fd = memfd_create("xsd_port", MFD_CLOEXEC);

		if (fd >= 0 && (write(fd, "1", 1) != 1 || lseek(fd, 0, SEEK_SET)))
			return -1;
		return fd;
	}
	if (flags & (O_CREAT | O_TMPFILE)) {
		va_start(arguments, flags);
		mode = va_arg(arguments, int);
		va_end(arguments);
	}
	return real_open(path, flags, mode);
}

/* libxenctrl: which domains there are */

xc_interface *xc_interface_open(xentoollog_logger *log, xentoollog_logger *dom_log, unsigned flags)
{
	return (void *)&handle;
}

int xc_interface_close(xc_interface *xch)
{
	return 0;
}

int xc_domain_getinfo(xc_interface *xch, uint32_t first, unsigned int most, xc_dominfo_t *info)
{
	char path[512];

	if (!most)
		return 0;
	in_folder(path, sizeof(path), "dom%u.ring", first);
	if (first && access(path, F_OK))
		return 0;
	memset(info, 0, sizeof(*info));
	info->domid = first;
	info->running = 1;
	return 1;
}

/* libxengnttab: a domain's ring page */

xengnttab_handle *xengnttab_open(struct xentoollog_logger *log, unsigned flags)
{
	return (void *)&handle;
}

int xengnttab_close(xengnttab_handle *xgt)
{
	return 0;
}

int xengnttab_set_max_grants(xengnttab_handle *xgt, uint32_t count)
{
	return 0;
}

void *xengnttab_map_grant_ref(xengnttab_handle *xgt, uint32_t domid, uint32_t ref, int prot)
{
	int fd = open_ring(domid, 0);
	void *page;

	if (fd < 0)
		return NULL;
	page = mmap(NULL, PAGE, prot, MAP_SHARED, fd, 0);
	close(fd);
	return page == MAP_FAILED ? NULL : page;
}

int xengnttab_unmap(xengnttab_handle *xgt, void *page, uint32_t count)
{
	return munmap(page, (size_t)count * PAGE);
}

/* libxenevtchn: signals as datagrams */

static socklen_t address(struct sockaddr_un *to, const char *format, unsigned number)
{
	memset(to, 0, sizeof(*to));
	to->sun_family = AF_UNIX;
	in_folder(to->sun_path, sizeof(to->sun_path), format, number);
	return sizeof(*to);
}

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *log, unsigned int flags)
{
	struct sockaddr_un here;
	socklen_t size = address(&here, "events", 0);

	events = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (events < 0 || bind(events, (struct sockaddr *)&here, size))
		return NULL;
	return (void *)&handle;
}

xenevtchn_handle *xenevtchn_fdopen(struct xentoollog_logger *log, int fd, unsigned int flags)
{
	events = fd;
	return (void *)&handle;
}

int xenevtchn_fd(xenevtchn_handle *xce)
{
	return events;
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *xce, unsigned int virq)
{
	return VIRQ_PORT;
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *xce, uint32_t domid, evtchn_port_t remote)
{
	return FIRST_DOMAIN_PORT + domid;
}

int xenevtchn_unbind(xenevtchn_handle *xce, evtchn_port_t port)
{
	return 0;
}

int xenevtchn_notify(xenevtchn_handle *xce, evtchn_port_t port)
{
	struct sockaddr_un to;
	socklen_t size;

	if (port < FIRST_DOMAIN_PORT)
		return 0;
	size = address(&to, "dom%u.events", port - FIRST_DOMAIN_PORT);
	/* A full queue is a signal that is pending already; nobody listening is nobody to signal. */
	sendto(events, "!", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&to, size);
	return 0;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *xce)
{
	uint32_t port;

	return recv(events, &port, sizeof(port), 0) == sizeof(port) ? (int)port : -1;
}

int xenevtchn_unmask(xenevtchn_handle *xce, evtchn_port_t port)
{
	return 0;
}
