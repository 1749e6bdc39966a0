/* A libxenctrl for tests: three domains in memory. 0 and 1 are under the scheduler USUAL, 2 under the other, 3 under
   one without weights. It writes as much as a domctl can carry wherever libxenctrl fills a structure in. */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#ifndef USUAL
#define USUAL 6
#endif
#ifndef REFUSE
#define REFUSE 0
#endif

struct credit { uint16_t weight, cap; };
struct vcpu { uint32_t vcpu; uint8_t online, blocked, running; uint64_t cpu_time; uint32_t cpu; };
union room { struct credit credit; struct vcpu vcpu; uint8_t pad[128]; };

static struct credit domains[4] = {{256, 0}, {256, 50}, {512, 0}, {0, 0}};
int closed;

static int fail(int number) { errno = number; return -1; }
static int scheduler(uint32_t domid) { return domid == 3 ? 9 : domid == 2 ? 11 - USUAL : USUAL; }

void *xc_interface_open(void *logger, void *builder, unsigned flags) {
  if (logger || builder || flags) { errno = EFAULT; return 0; }
#ifdef CLOSED
  errno = ENOENT;
  return 0;
#else
  return domains;
#endif
}
int xc_interface_close(void *xch) { closed += xch == domains; return 0; }

int xc_sched_id(void *xch, int *id) {
  if (REFUSE) return fail(REFUSE);
  *id = USUAL;
  return xch == domains ? 0 : fail(EBADF);
}

static int get(void *xch, uint32_t domid, int which, void *to) {
  union room room;
  if (xch != domains) return fail(EBADF);
  if (domid > 3) return fail(ESRCH);
  if (scheduler(domid) != which) return fail(EINVAL);
  memset(&room, 0, sizeof room);
  room.credit = domains[domid];
  memcpy(to, &room, sizeof room);
  return 0;
}
static int set(void *xch, uint32_t domid, int which, struct credit *from) {
  if (xch != domains) return fail(EBADF);
  if (domid > 3) return fail(ESRCH);
  if (scheduler(domid) != which) return fail(EINVAL);
  domains[domid] = *from;
  return 0;
}
int xc_sched_credit_domain_get(void *xch, uint32_t domid, void *to) { return get(xch, domid, 5, to); }
int xc_sched_credit_domain_set(void *xch, uint32_t domid, void *from) { return set(xch, domid, 5, from); }
int xc_sched_credit2_domain_get(void *xch, uint32_t domid, void *to) { return get(xch, domid, 6, to); }
int xc_sched_credit2_domain_set(void *xch, uint32_t domid, void *from) { return set(xch, domid, 6, from); }

#ifndef LACKING
/* Domain 1 has three processors, the third of which was never made; others have one. */
int xc_vcpu_getinfo(void *xch, uint32_t domid, uint32_t number, void *to) {
  union room room;
  if (xch != domains) return fail(EBADF);
  if (domid > 3) return fail(ESRCH);
  if (domid == 1 && number == 2) return fail(ESRCH);
  if (number >= (domid == 1 ? 3 : 1)) return fail(number % 2 ? EINVAL : ENOENT);
  memset(&room, 0, sizeof room);
  room.vcpu.vcpu = number;
  room.vcpu.online = 1;
  room.vcpu.blocked = number == 1;
  room.vcpu.running = number == 0;
  room.vcpu.cpu_time = 1000000007ull * (number + 1);
  memcpy(to, &room, sizeof room);
  return 0;
}
#endif
