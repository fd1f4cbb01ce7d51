/* Arguments of Python calls as plain C values, faults as exceptions. Each sets an exception where it fails. */
#ifndef GATEWAY_ARGUMENTS_H
#define GATEWAY_ARGUMENTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "dataplane.h"

/* Converters for "O&". */
int to_u16(PyObject *object, void *out);
int to_u32(PyObject *object, void *out);
int to_u64(PyObject *object, void *out);

/* OSError or ValueError; NULL, and None where nothing went wrong. */
PyObject *raise_fault(struct fault fault);
PyObject *none_or_raise(struct fault fault);

bool parse_endpoint(const char *host, unsigned port, struct endpoint *out);
/* Of tuples (protocol, local first, last, port first, last, remote first, last, port first, last). A malloc'ed array.
 */
struct selector *parse_selectors(PyObject *list, size_t *count);

#endif
