// SPDX-License-Identifier: Apache-2.0
/*
 * Makes the TCP connections that a plan names, each with its sizes and its ending, and notes what either end did.
 *
 *	traffic PLAN TRUTH [--window N] [--rate N] [--round-gap-us N] [--hold]
 *
 * PLAN is an array of struct plan, TRUTH becomes an array of struct truth of the same length. Client and server are
 * processes of their own, named fl-client and fl-server. Every number of a connection's truth follows from its plan:
 * before an end resets a connection, what both sent has been acknowledged, so that bytes are exact on both ends.
 * tests/kernel/traffic.py writes plans and reads truths; it mirrors the two structs.
 *
 * Prints "held" once every connection rests before its ending (--hold; a line on stdin releases them), and at the end
 * "done <nanoseconds from the first connect to the last close>". Exit code 3: no progress for 20 s.
 */
#define _GNU_SOURCE /* accept4 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum ending {
	CLIENT_CLOSES = 0, /* close(); the server closes when it reads the end */
	CLIENT_SHUTS = 1, /* shutdown(SHUT_WR), reads the end, then close() */
	SERVER_CLOSES = 2,
	SERVER_SHUTS = 3,
	CLIENT_STUCK =
		4, /* its FIN waits behind `extra` bytes that the server does not read, while the server's comes */
	SERVER_STUCK = 5,
	CLIENT_RESETS = 6, /* SO_LINGER 0 and close() */
	SERVER_RESETS = 7, /* after `extra` more bytes of the client */
	CLIENT_UNREAD = 8, /* close() with `extra` bytes of the server unread */
	SERVER_UNREAD = 9,
	REFUSED = 10, /* nobody listens there */
	ABANDONED = 11, /* nobody answers there; close() at once */
};

struct plan {
	uint8_t client_address[16];
	uint8_t server_address[16];
	uint16_t client_port;
	uint16_t server_port;
	uint8_t family; /* 4: AF_INET; 6: AF_INET6, mapped addresses included */
	uint8_t ending;
	uint16_t rounds; /* each: `up` bytes to the server, then `down` bytes back */
	uint32_t up;
	uint32_t down;
	uint32_t extra;
};

struct end {
	uint64_t sent; /* bytes that send() took */
	uint64_t received; /* bytes that recv() gave */
	int32_t error; /* the errno that ended it; 0: none */
	uint32_t pid;
	uint32_t finished; /* 1: as planned */
	uint32_t pad;
};

struct truth {
	struct end client;
	struct end server;
};

struct conn {
	int fd;
	uint32_t left; /* of the message that is being sent or received */
	uint16_t round;
	uint8_t stage;
	uint8_t events; /* what epoll watches; 0: not added */
	bool noted; /* the other end's note is here */
};

enum stage {
	CONNECTING,
	SENDING, /* this end's message of the round */
	RECEIVING, /* the other end's */
	RESTING, /* between two rounds */
	SENDING_EXTRA,
	RECEIVING_EXTRA,
	WAITING_FOR_ACKS, /* then the other end is told to go on */
	WAITING_FOR_NOTE, /* of the other end, through the pipe */
	WAITING_FOR_END,
	HELD,
};

#define MAX_LISTENERS 64
#define BATCH 256
#define IDLE_NS 20000000000ull

struct listener {
	int fd;
	const struct plan *like;
	uint32_t *by_port; /* client port -> connection + 1 */
};

static const struct plan *plans;
static struct truth *truths;
static uint32_t count;
static struct conn *conns;
static bool is_client;
static int epoll_fd, notes_in, notes_out;
static uint32_t finished, open_now;
static uint64_t progress; /* any number that moves while something happens */
static char buffer[1 << 18];

static uint32_t *waiting; /* connections in WAITING_FOR_ACKS */
static uint32_t waiting_len;
static uint32_t *resting; /* a ring of connections in RESTING, the earliest first */
static uint64_t *resting_until;
static uint32_t resting_head, resting_tail;
static uint64_t round_gap_ns;
static bool hold;
static uint32_t held;

static void advance(uint32_t id);
static void next_round(uint32_t id);

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
	exit(1);
}

static struct end *end_of(uint32_t id)
{
	return is_client ? &truths[id].client : &truths[id].server;
}

static socklen_t address(const struct plan *p, bool client, struct sockaddr_storage *out)
{
	const uint8_t *bytes = client ? p->client_address : p->server_address;
	uint16_t port = htons(client ? p->client_port : p->server_port);

	memset(out, 0, sizeof(*out));
	if (p->family == 4) {
		struct sockaddr_in *in = (void *)out;

		in->sin_family = AF_INET;
		in->sin_port = port;
		memcpy(&in->sin_addr, bytes + 12, 4);
		return sizeof(*in);
	}
	struct sockaddr_in6 *in6 = (void *)out;

	in6->sin6_family = AF_INET6;
	in6->sin6_port = port;
	memcpy(&in6->sin6_addr, bytes, 16);
	return sizeof(*in6);
}

static int make_socket(const struct plan *p, bool client)
{
	struct sockaddr_storage where;
	socklen_t len = address(p, client, &where);
	int fd = socket(where.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int one = 1;

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (void *)&where, len))
		die("bind");
	return fd;
}

/* A receive buffer that grew would take all that is meant to be stuck: setting its size fixes it, at its default. */
static void keep_small(uint32_t id)
{
	int half = 65536; /* the kernel doubles it */

	if (plans[id].ending == CLIENT_STUCK || plans[id].ending == SERVER_STUCK)
		setsockopt(conns[id].fd, SOL_SOCKET, SO_RCVBUF, &half, sizeof(half));
}

static void watch(uint32_t id, uint8_t events)
{
	struct conn *c = &conns[id];
	struct epoll_event e = { .events = events, .data.u64 = id };

	if (c->events == events)
		return;
	if (epoll_ctl(epoll_fd, c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &e))
		die("epoll_ctl");
	c->events = events;
}

static void finish(uint32_t id, int error, bool planned)
{
	struct end *end = end_of(id);

	end->error = error;
	end->pid = getpid();
	end->finished = planned;
	close(conns[id].fd);
	conns[id].fd = -1;
	finished++;
	progress++;
	open_now--;
}

static void finish_by_reset(uint32_t id)
{
	struct linger linger = { .l_onoff = 1, .l_linger = 0 };

	setsockopt(conns[id].fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	finish(id, 0, true);
}

/* What this end has read is acknowledged now, not when the delayed ACK's timer says. */
static void acknowledge(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof(one));
}

static void note(uint32_t id)
{
	if (write(notes_out, &id, sizeof(id)) != sizeof(id))
		die("write to the pipe");
}

/* Sends conns[id].left more bytes: true once all are with the kernel. */
static bool send_left(uint32_t id)
{
	struct conn *c = &conns[id];

	while (c->left) {
		ssize_t n = send(c->fd, buffer, c->left < sizeof(buffer) ? c->left : sizeof(buffer), MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN) {
			watch(id, EPOLLIN | EPOLLOUT);
			return false;
		}
		if (n < 0) {
			finish(id, errno, false);
			return false;
		}
		end_of(id)->sent += n;
		c->left -= n;
	}
	return true;
}

static bool receive_left(uint32_t id)
{
	struct conn *c = &conns[id];

	while (c->left) {
		ssize_t n = recv(c->fd, buffer, c->left < sizeof(buffer) ? c->left : sizeof(buffer), 0);

		if (n < 0 && errno == EAGAIN) {
			watch(id, EPOLLIN);
			return false;
		}
		if (n <= 0) {
			finish(id, n ? errno : 0, false);
			return false;
		}
		end_of(id)->received += n;
		c->left -= n;
	}
	return true;
}

/* Reads until the other end has closed or reset. */
static void receive_end(uint32_t id)
{
	uint8_t ending = plans[id].ending;
	bool reset = is_client ? ending == SERVER_RESETS || ending == SERVER_UNREAD :
				 ending == CLIENT_RESETS || ending == CLIENT_UNREAD;
	struct conn *c = &conns[id];

	for (;;) {
		ssize_t n = recv(c->fd, buffer, sizeof(buffer), 0);

		if (n > 0) {
			end_of(id)->received += n;
			continue;
		}
		if (n < 0 && errno == EAGAIN)
			watch(id, EPOLLIN);
		else if (n < 0)
			finish(id, errno, reset && errno == ECONNRESET);
		else
			finish(id, 0, !reset);
		return;
	}
}

static void go_on(uint32_t id, uint8_t stage, uint32_t left)
{
	conns[id].stage = stage;
	conns[id].left = left;
	advance(id);
}

/* The other end has said: my FIN is queued, or all that I sent is acknowledged. */
static void after_note(uint32_t id)
{
	struct conn *c = &conns[id];
	int unread = 0;

	if (plans[id].ending == CLIENT_STUCK || plans[id].ending == SERVER_STUCK) {
		shutdown(c->fd, SHUT_WR);
		go_on(id, WAITING_FOR_END, 0);
		return;
	}
	ioctl(c->fd, SIOCINQ, &unread);
	finish(id, 0, (uint32_t)unread == plans[id].extra);
}

/* All rounds are over. */
static void begin_ending(uint32_t id)
{
	const struct plan *p = &plans[id];
	bool sends_extra = p->ending == (is_client ? CLIENT_STUCK : SERVER_STUCK) ||
			   p->ending == (is_client ? SERVER_UNREAD : CLIENT_UNREAD) ||
			   (is_client && p->ending == SERVER_RESETS);
	bool waits_for_note = p->ending == (is_client ? SERVER_STUCK : CLIENT_STUCK) ||
			      p->ending == (is_client ? CLIENT_UNREAD : SERVER_UNREAD);

	if (is_client && hold && conns[id].stage != HELD) {
		conns[id].stage = HELD;
		watch(id, EPOLLERR);
		held++;
	} else if (sends_extra) {
		go_on(id, SENDING_EXTRA, p->extra);
	} else if (waits_for_note) {
		conns[id].stage = WAITING_FOR_NOTE;
		if (conns[id].noted)
			after_note(id);
		else if (conns[id].events)
			watch(id, EPOLLERR);
	} else if (!is_client && p->ending == SERVER_RESETS) {
		go_on(id, RECEIVING_EXTRA, p->extra);
	} else if (p->ending == (is_client ? CLIENT_CLOSES : SERVER_CLOSES)) {
		finish(id, 0, true);
	} else if (p->ending == (is_client ? CLIENT_SHUTS : SERVER_SHUTS)) {
		shutdown(conns[id].fd, SHUT_WR);
		go_on(id, WAITING_FOR_END, 0);
	} else if (is_client && p->ending == CLIENT_RESETS) {
		acknowledge(conns[id].fd);
		finish_by_reset(id);
	} else {
		go_on(id, WAITING_FOR_END, 0);
	}
}

static void next_round(uint32_t id)
{
	struct conn *c = &conns[id];

	progress++;
	if (++c->round > plans[id].rounds) {
		begin_ending(id);
	} else if (is_client && round_gap_ns && c->round > 1) {
		c->stage = RESTING;
		watch(id, EPOLLERR);
		resting[resting_tail % count] = id;
		resting_until[resting_tail++ % count] = now_ns() + round_gap_ns;
	} else if (is_client) {
		go_on(id, SENDING, plans[id].up);
	} else {
		go_on(id, RECEIVING, plans[id].up);
	}
}

static bool acknowledged(uint32_t id)
{
	int unacknowledged = 1;

	ioctl(conns[id].fd, SIOCOUTQ, &unacknowledged);
	return unacknowledged == 0;
}

/* On loopback the handshake is mostly over when connect() returns; under load a softirq may come later. */
static void look_at_connect(uint32_t id)
{
	const struct plan *p = &plans[id];
	struct conn *c = &conns[id];
	struct sockaddr_storage peer;
	socklen_t size = sizeof(peer);
	int error = 0;

	if (p->ending != REFUSED && !getpeername(c->fd, (void *)&peer, &size)) {
		next_round(id);
		return;
	}
	size = sizeof(error);
	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
	if (error)
		finish(id, error, p->ending == REFUSED && error == ECONNREFUSED);
	else
		watch(id, EPOLLOUT);
}

/* Takes a connection as far as it goes without waiting. */
static void advance(uint32_t id)
{
	struct conn *c = &conns[id];

	switch (c->stage) {
	case CONNECTING:
		look_at_connect(id);
		return;
	case SENDING:
		if (!send_left(id))
			return;
		if (is_client)
			go_on(id, RECEIVING, plans[id].down);
		else
			next_round(id);
		return;
	case RECEIVING:
		if (!receive_left(id))
			return;
		if (is_client)
			next_round(id);
		else
			go_on(id, SENDING, plans[id].down);
		return;
	case SENDING_EXTRA:
		if (!send_left(id))
			return;
		if (plans[id].ending == CLIENT_STUCK || plans[id].ending == SERVER_STUCK) {
			shutdown(c->fd, SHUT_WR);
			note(id);
			go_on(id, WAITING_FOR_END, 0);
		} else if (plans[id].ending == SERVER_RESETS) {
			go_on(id, WAITING_FOR_END, 0);
		} else {
			c->stage = WAITING_FOR_ACKS;
			watch(id, EPOLLERR);
			waiting[waiting_len++] = id;
		}
		return;
	case RECEIVING_EXTRA:
		if (!receive_left(id))
			return;
		acknowledge(c->fd);
		finish_by_reset(id);
		return;
	case WAITING_FOR_END:
		receive_end(id);
		return;
	default: /* an error while nothing was asked of the socket */
		if (c->stage == WAITING_FOR_ACKS || c->stage == RESTING)
			return; /* it is in a queue and will be seen there */
		finish(id, EIO, false);
	}
}

static void look_for_acks(void)
{
	for (uint32_t i = 0; i < waiting_len;) {
		uint32_t id = waiting[i];

		if (!acknowledged(id)) {
			i++;
			continue;
		}
		waiting[i] = waiting[--waiting_len];
		note(id);
		go_on(id, WAITING_FOR_END, 0);
	}
}

static void read_notes(void)
{
	uint32_t ids[BATCH];
	ssize_t n = read(notes_in, ids, sizeof(ids));

	for (ssize_t i = 0; i < n / (ssize_t)sizeof(*ids); i++) {
		struct conn *c = &conns[ids[i]];

		c->noted = true;
		if (c->fd >= 0 && c->stage == WAITING_FOR_NOTE)
			after_note(ids[i]);
	}
}

static void start(uint32_t id)
{
	const struct plan *p = &plans[id];
	struct sockaddr_storage server;
	socklen_t len = address(p, false, &server);
	struct conn *c = &conns[id];

	c->fd = make_socket(p, true);
	keep_small(id);
	open_now++;
	if (connect(c->fd, (void *)&server, len) && errno != EINPROGRESS && errno != ECONNREFUSED)
		die("connect");
	if (p->ending == ABANDONED)
		finish(id, 0, true);
	else
		go_on(id, CONNECTING, 0);
}

static void wake_resting(void)
{
	uint64_t now = now_ns();

	while (resting_head != resting_tail && resting_until[resting_head % count] <= now) {
		uint32_t id = resting[resting_head++ % count];

		go_on(id, SENDING, plans[id].up);
	}
}

static void release_held(void)
{
	char line[16];

	printf("held\n");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		exit(1);
	for (uint32_t id = 0; id < count; id++)
		if (conns[id].fd >= 0 && conns[id].stage == HELD)
			begin_ending(id);
	held = 0;
}

static void check_progress(void)
{
	static uint64_t last_progress, last_ns;
	uint64_t now = now_ns();

	if (progress != last_progress || !last_ns) {
		last_progress = progress;
		last_ns = now;
	} else if (now - last_ns > IDLE_NS) {
		fprintf(stderr, "traffic: the %s made no progress: %u finished, %u open\n",
			is_client ? "client" : "server", finished, open_now);
		exit(3);
	}
}

static void poll_conns(int timeout_ms, struct listener *listeners);

static void run_client(uint32_t window, uint64_t rate)
{
	uint64_t begin = now_ns();
	uint32_t started = 0;

	while (finished < count) {
		uint64_t due = rate ? (now_ns() - begin) * rate / 1000000000ull + 1 : count;

		for (int i = 0; i < BATCH && started < count && open_now < window && started < due; i++)
			start(started++);
		if (round_gap_ns)
			wake_resting();
		if (hold && held == open_now && started == count)
			release_held();
		bool may_start = started < count && open_now < window;

		poll_conns(may_start && !rate ? 0 : 1, NULL);
		check_progress();
	}
	printf("done %llu\n", (unsigned long long)(now_ns() - begin));
}

static void take(uint32_t id, int fd)
{
	conns[id].fd = fd;
	keep_small(id);
	open_now++;
	next_round(id);
}

static void accept_batch(struct listener *listener)
{
	for (int i = 0; i < BATCH; i++) {
		struct sockaddr_in6 peer;
		socklen_t len = sizeof(peer);
		int fd = accept4(listener->fd, (void *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0 && errno == EAGAIN)
			return;
		if (fd < 0)
			die("accept");
		/* sin_port and sin6_port are at the same place */
		uint32_t id = listener->by_port[ntohs(peer.sin6_port)];

		if (!id) {
			errno = EADDRNOTAVAIL;
			die("a connection that no plan knows");
		}
		take(id - 1, fd);
	}
}

static void poll_conns(int timeout_ms, struct listener *listeners)
{
	struct epoll_event events[BATCH];
	int n = epoll_wait(epoll_fd, events, BATCH, timeout_ms);

	for (int i = 0; i < n; i++) {
		uint64_t what = events[i].data.u64;

		if (what < count && conns[what].fd >= 0)
			advance(what);
		else if (what == count)
			read_notes();
		else if (what > count)
			accept_batch(&listeners[what - count - 1]);
	}
	look_for_acks();
}

static void watch_plain(int fd, uint64_t what)
{
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = what };

	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e))
		die("epoll_ctl");
}

static uint32_t open_listeners(struct listener *listeners)
{
	uint32_t n = 0, expected = 0, l;

	for (uint32_t id = 0; id < count; id++) {
		const struct plan *p = &plans[id];

		if (p->ending == REFUSED || p->ending == ABANDONED)
			continue;
		for (l = 0; l < n; l++)
			if (listeners[l].like->server_port == p->server_port &&
			    !memcmp(listeners[l].like->server_address, p->server_address, 16))
				break;
		if (l == n) {
			if (n++ == MAX_LISTENERS)
				die("too many listeners");
			listeners[l].like = p;
			listeners[l].by_port = calloc(65536, sizeof(uint32_t));
			listeners[l].fd = make_socket(p, false);
			if (listen(listeners[l].fd, 65535))
				die("listen");
			watch_plain(listeners[l].fd, (uint64_t)count + 1 + l);
		}
		listeners[l].by_port[p->client_port] = id + 1;
		expected++;
	}
	return expected;
}

static void run_server(int ready)
{
	static struct listener listeners[MAX_LISTENERS];
	uint32_t expected = open_listeners(listeners);

	if (write(ready, "r", 1) != 1)
		die("write");
	while (finished < expected) {
		poll_conns(waiting_len ? 1 : 1000, listeners);
		if (!hold)
			check_progress();
	}
}

static void prepare(const char *name, int in, int out)
{
	prctl(PR_SET_NAME, name);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	is_client = !strcmp(name, "fl-client");
	notes_in = in;
	notes_out = out;
	fcntl(in, F_SETFL, O_NONBLOCK);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	conns = calloc(count, sizeof(*conns));
	waiting = calloc(count, sizeof(*waiting));
	resting = calloc(count, sizeof(*resting));
	resting_until = calloc(count, sizeof(*resting_until));
	if (epoll_fd < 0 || !conns || !waiting || !resting || !resting_until)
		die("prepare");
	for (uint32_t id = 0; id < count; id++)
		conns[id].fd = -1;
	watch_plain(in, count);
}

static void *map(const char *path, int flags, size_t size)
{
	int fd = open(path, flags, 0600);

	if (fd < 0 || (size && ftruncate(fd, size)))
		die(path);
	if (!size) {
		struct stat stat;

		fstat(fd, &stat);
		size = stat.st_size;
		count = size / sizeof(struct plan);
	}
	void *data = mmap(NULL, size, PROT_READ | (flags & O_RDWR ? PROT_WRITE : 0), MAP_SHARED, fd, 0);

	if (data == MAP_FAILED)
		die(path);
	return data;
}

static int wait_for(pid_t pid)
{
	int status = 0;

	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int argc, char **argv)
{
	uint32_t window = 1000;
	uint64_t rate = 0;
	int to_server[2], to_client[2], ready[2];
	char byte;

	if (argc < 3) {
		fprintf(stderr, "usage: traffic PLAN TRUTH [--window N] [--rate N] [--round-gap-us N] [--hold]\n");
		return 2;
	}
	for (int i = 3; i < argc; i++) {
		if (!strcmp(argv[i], "--hold"))
			hold = true;
		else if (i + 1 < argc && !strcmp(argv[i], "--window"))
			window = strtoul(argv[++i], NULL, 10);
		else if (i + 1 < argc && !strcmp(argv[i], "--rate"))
			rate = strtoull(argv[++i], NULL, 10);
		else if (i + 1 < argc && !strcmp(argv[i], "--round-gap-us"))
			round_gap_ns = strtoull(argv[++i], NULL, 10) * 1000;
		else
			return 2;
	}
	plans = map(argv[1], O_RDONLY, 0);
	truths = map(argv[2], O_RDWR | O_CREAT | O_TRUNC, count * sizeof(struct truth));
	if (pipe(to_server) || pipe(to_client) || pipe(ready))
		die("pipe");

	pid_t server = fork();

	if (!server) {
		prepare("fl-server", to_server[0], to_client[1]);
		run_server(ready[1]);
		return 0;
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		return wait_for(server);

	pid_t client = fork();

	if (!client) {
		prepare("fl-client", to_client[0], to_server[1]);
		run_client(window, rate);
		return 0;
	}
	int failed = wait_for(client);

	if (failed)
		kill(server, SIGKILL);
	int server_failed = wait_for(server);

	return failed ? failed : server_failed;
}
