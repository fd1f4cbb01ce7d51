/* Arguments of Python calls as plain C values and faults as exceptions, for module.c and probe_py.c. */
#include "arguments.h"

#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include "udp.h"

#define SELECTORS_MAX 4096

/* Python's own formats for unsigned integers wrap silently, and a negative grant would be none. */
static bool to_unsigned(PyObject *object, unsigned long long most, unsigned long long *value) {
  *value = PyLong_AsUnsignedLongLong(object);
  bool failed = *value == (unsigned long long)-1 && PyErr_Occurred();
  if (failed && !PyErr_ExceptionMatches(PyExc_OverflowError)) return false;
  if (!failed && *value <= most) return true;
  PyErr_Clear();
  PyErr_Format(PyExc_ValueError, "%R is out of range 0 to %llu", object, most);
  return false;
}

#define CONVERTER(name, type, most)                                                                                    \
  int name(PyObject *object, void *out) {                                                                              \
    unsigned long long value;                                                                                          \
    bool good = to_unsigned(object, most, &value);                                                                     \
    if (good) *(type *)out = (type)value;                                                                              \
    return good;                                                                                                       \
  }
CONVERTER(to_u16, uint16_t, UINT16_MAX)
CONVERTER(to_u32, uint32_t, UINT32_MAX)
CONVERTER(to_u64, uint64_t, UINT64_MAX)

PyObject *raise_fault(struct fault fault) {
  if (fault.os_error) {
    PyObject *arguments = Py_BuildValue("(is)", fault.os_error, fault.sentence);
    if (arguments) PyErr_SetObject(PyExc_OSError, arguments);
    Py_XDECREF(arguments);
  } else {
    PyErr_SetString(PyExc_ValueError, fault.sentence);
  }
  return NULL;
}

PyObject *none_or_raise(struct fault fault) {
  if (fault.sentence) return raise_fault(fault);
  Py_RETURN_NONE;
}

bool parse_endpoint(const char *host, unsigned port, struct endpoint *out) {
  memset(out, 0, sizeof *out);
  if (port > 0xffff) {
    PyErr_Format(PyExc_ValueError, "port %u is out of range", port);
    return false;
  }
  struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_DGRAM}, *found = NULL;
  if (getaddrinfo(host, NULL, &hints, &found) != 0) {
    PyErr_Format(PyExc_ValueError, "not an IP address: %s", host);
    return false;
  }
  bool known = endpoint_from_sockaddr(found->ai_addr, out);
  out->port = (uint16_t)port;
  freeaddrinfo(found);
  return known;
}

static bool parse_range(const char *octets, Py_ssize_t length, struct address *out) {
  const uint8_t *p = (const uint8_t *)octets;
  *out = (struct address){0, 0};
  for (Py_ssize_t i = 0; i < length; i++) {
    out->high = out->high << 8 | out->low >> 56;
    out->low = out->low << 8 | p[i];
  }
  return length == 4 || length == 16;
}

/* (protocol, local first, last, port first, last, remote first, last, port first, last) */
static bool parse_selector(PyObject *tuple, struct selector *out) {
  const char *octets[4];
  Py_ssize_t length[4];
  bool same_family = true;
  if (!PyTuple_Check(tuple)) {
    PyErr_SetString(PyExc_TypeError, "a selector is a tuple");
    return false;
  }
  if (!PyArg_ParseTuple(tuple, "by#y#O&O&y#y#O&O&", &out->protocol, &octets[0], &length[0], &octets[1], &length[1],
                        to_u16, &out->local_port_first, to_u16, &out->local_port_last, &octets[2], &length[2],
                        &octets[3], &length[3], to_u16, &out->remote_port_first, to_u16, &out->remote_port_last))
    return false;
  struct address *ranges[] = {&out->local_first, &out->local_last, &out->remote_first, &out->remote_last};
  for (int i = 0; i < 4; i++)
    same_family &= parse_range(octets[i], length[i], ranges[i]) && length[i] == length[0];
  if (!same_family) PyErr_SetString(PyExc_ValueError, "a selector's addresses are four of 4 or four of 16 octets");
  out->ipv6 = length[0] == 16;
  return same_family;
}

struct selector *parse_selectors(PyObject *list, size_t *count) {
  Py_ssize_t size = PySequence_Size(list);
  if (size < 0) return NULL;
  if (size > SELECTORS_MAX) {
    PyErr_SetString(PyExc_ValueError, "too many selectors");
    return NULL;
  }
  struct selector *selectors = calloc((size_t)size + 1, sizeof *selectors);
  if (!selectors) return (struct selector *)(void *)PyErr_NoMemory();
  bool good = true;
  for (Py_ssize_t i = 0; i < size && good; i++) {
    PyObject *item = PySequence_GetItem(list, i);
    good = item && parse_selector(item, &selectors[i]);
    Py_XDECREF(item);
  }
  *count = (size_t)size;
  if (good) return selectors;
  free(selectors);
  return NULL;
}
