// SPDX-License-Identifier: Apache-2.0
/*
 * A server of one connection through io_uring: `uring sync` tries each operation inline, `uring async` gives each to a
 * worker thread of the kernel (IOSQE_ASYNC). fl-listener listens and prints the port; its child fl-worker does the rest.
 */
#include <arpa/inet.h>
#include <liburing.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct io_uring ring;
static unsigned char flags;

static struct io_uring_sqe *operation(void)
{
	return io_uring_get_sqe(&ring);
}

static int result(struct io_uring_sqe *sqe)
{
	struct io_uring_cqe *cqe;
	int value;

	sqe->flags |= flags;
	if (io_uring_submit(&ring) < 0 || io_uring_wait_cqe(&ring, &cqe) < 0)
		return -1;
	value = cqe->res;
	io_uring_cqe_seen(&ring, cqe);
	return value;
}

static int serve(int listener)
{
	struct io_uring_sqe *sqe;
	char byte, answer[16];
	int fd;

	prctl(PR_SET_NAME, "fl-worker");
	if (io_uring_queue_init(8, &ring, 0) < 0)
		return 4; /* not allowed here: kernel.io_uring_disabled, seccomp */
	sqe = operation();
	io_uring_prep_accept(sqe, listener, NULL, NULL, 0);
	fd = result(sqe);
	sqe = operation();
	io_uring_prep_recv(sqe, fd, &byte, 1, 0);
	if (fd < 0 || result(sqe) != 1)
		return 1;
	snprintf(answer, sizeof(answer), "%d", getpid());
	sqe = operation();
	io_uring_prep_send(sqe, fd, answer, strlen(answer), 0);
	if (result(sqe) < 0)
		return 1;
	sqe = operation();
	io_uring_prep_close(sqe, fd);
	return result(sqe) < 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0), status = 0;

	flags = argc > 1 && !strcmp(argv[1], "async") ? IOSQE_ASYNC : 0;
	prctl(PR_SET_NAME, "fl-listener");
	if (bind(listener, (void *)&address, size) || listen(listener, 8) ||
	    getsockname(listener, (void *)&address, &size))
		return 1;
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);

	pid_t child = fork();

	if (!child)
		return serve(listener);
	close(listener);
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
