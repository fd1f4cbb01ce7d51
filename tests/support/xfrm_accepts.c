/* Preloaded into pluto where the kernel has no ESP: SAs are "installed" into a file.

   Requests of NETLINK_XFRM that add, change, read or remove an SA are not sent; the answer a kernel with ESP would give
   is what the next read of that socket gets. All else (SPIs, policies, routes) goes to the kernel. Each message that
   adds or changes an SA is appended, as it came, to the file named by XFRM_ACCEPTED. pluto has one thread for it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/xfrm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SAS = 256 };

struct answer {
    struct nlmsghdr header;
    union {
        struct nlmsgerr error;
        struct xfrm_usersa_info sa;
    };
};

static struct xfrm_usersa_info installed[SAS];
static unsigned count;
static struct answer answer;
static int answers_on = -1; /* the socket whose next read gets `answer` */

static struct xfrm_usersa_info *find(__be32 spi, const xfrm_address_t *to)
{
    for (unsigned at = 0; at < count; at++)
        if (installed[at].id.spi == spi && memcmp(&installed[at].id.daddr, to, sizeof *to) == 0)
            return &installed[at];
    return NULL;
}

static void say(const struct nlmsghdr *request, int error)
{
    answer.header.nlmsg_type = NLMSG_ERROR;
    answer.header.nlmsg_len = NLMSG_LENGTH(sizeof answer.error);
    answer.error.error = error;
    answer.error.msg = *request;
}

static int add(const struct nlmsghdr *request)
{
    const struct xfrm_usersa_info *sa = NLMSG_DATA(request);
    struct xfrm_usersa_info *known = find(sa->id.spi, &sa->id.daddr);
    if (known == NULL) {
        if (count == SAS)
            return -ENOBUFS;
        known = &installed[count++];
    }
    *known = *sa;
    int file = open(getenv("XFRM_ACCEPTED"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (file < 0)
        return -errno;
    ssize_t written = ((ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(file, request, request->nlmsg_len);
    close(file);
    return written == (ssize_t)request->nlmsg_len ? 0 : -EIO;
}

static void look(const struct nlmsghdr *request, int remove)
{
    const struct xfrm_usersa_id *id = NLMSG_DATA(request);
    struct xfrm_usersa_info *known = find(id->spi, &id->daddr);
    say(request, known ? 0 : -ESRCH);
    if (known == NULL)
        return;
    if (remove) {
        *known = installed[--count];
        return;
    }
    answer.header.nlmsg_type = XFRM_MSG_NEWSA;
    answer.header.nlmsg_len = NLMSG_LENGTH(sizeof answer.sa);
    answer.sa = *known;
}

/* True: the request is answered here. */
static int taken(int fd, const void *data, size_t octets)
{
    int protocol = -1, domain = -1;
    socklen_t length = sizeof protocol;
    const struct nlmsghdr *request = data;
    if (octets < sizeof *request || request->nlmsg_len > octets || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 ||
        domain != AF_NETLINK || getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) != 0 || protocol != NETLINK_XFRM)
        return 0;
    memset(&answer, 0, sizeof answer);
    switch (request->nlmsg_type) {
    case XFRM_MSG_NEWSA:
    case XFRM_MSG_UPDSA: say(request, add(request)); break;
    case XFRM_MSG_GETSA: look(request, 0); break;
    case XFRM_MSG_DELSA: look(request, 1); break;
    default: return 0;
    }
    answer.header.nlmsg_seq = request->nlmsg_seq;
    answer.header.nlmsg_pid = (unsigned)getpid();
    answers_on = fd;
    return 1;
}

ssize_t write(int fd, const void *data, size_t octets)
{
    if (taken(fd, data, octets))
        return (ssize_t)octets;
    return ((ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(fd, data, octets);
}

ssize_t recvfrom(int fd, void *data, size_t octets, int flags, struct sockaddr *from, socklen_t *from_octets)
{
    if (fd != answers_on || octets < answer.header.nlmsg_len)
        return ((ssize_t(*)(int, void *, size_t, int, struct sockaddr *, socklen_t *))dlsym(RTLD_NEXT, "recvfrom"))(
            fd, data, octets, flags, from, from_octets);
    answers_on = -1;
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    if (from != NULL && from_octets != NULL) {
        memcpy(from, &kernel, *from_octets < sizeof kernel ? *from_octets : sizeof kernel);
        *from_octets = sizeof kernel;
    }
    memcpy(data, &answer, answer.header.nlmsg_len);
    return (ssize_t)answer.header.nlmsg_len;
}
