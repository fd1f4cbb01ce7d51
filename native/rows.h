/* Statistics as Python objects. */
#ifndef GATEWAY_ROWS_H
#define GATEWAY_ROWS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "dataplane.h"

/* New references; NULL with an exception set. */
PyObject *sa_row(const struct sa_statistics *row);
PyObject *sa_tuple(const struct sa_statistics *row);
PyObject *worker_row(const struct worker_statistics *row);
PyObject *sa_list(const struct sa_statistics *rows, size_t count, PyObject *(*row)(const struct sa_statistics *));
PyObject *drop_list(const struct drop_row *rows, size_t count);
PyObject *drop_names(void);
PyObject *stage_names(void);

/* Appends and drops the caller's reference; false when either failed. */
static inline bool append(PyObject *list, PyObject *item) {
  bool done = item && PyList_Append(list, item) == 0;
  Py_XDECREF(item);
  return done;
}

static inline PyObject *list_or_null(PyObject *list, bool complete) {
  if (complete) return list;
  Py_XDECREF(list);
  return NULL;
}

#endif
