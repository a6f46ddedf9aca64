package nbd

// Numbers of the NBD protocol, in the words and order of its document
// (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md); section names
// in comments are that document's. All integers on the wire are big endian.

// Section "Newstyle negotiation" and "Fixed newstyle negotiation".
const (
	magicInit     = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption   = 0x49484156454F5054 // "IHAVEOPT"
	magicOptReply = 0x0003e889045565a9

	flagFixedNewstyle = 1 << 0 // handshake flags; the client's answer uses the same bits
	flagNoZeroes      = 1 << 1
)

// Section "Option types".
const (
	optAbort           = 2
	optGo              = 7
	optStructuredReply = 8
	optListMetaContext = 9
	optSetMetaContext  = 10
)

// Section "Option reply types".
const (
	repAck         = 1
	repInfo        = 3
	repMetaContext = 4

	repErrBit      = 1 << 31
	repErrUnsup    = repErrBit + 1
	repErrPolicy   = repErrBit + 2
	repErrInvalid  = repErrBit + 3
	repErrPlatform = repErrBit + 4
	repErrTLSReqd  = repErrBit + 5
	repErrUnknown  = repErrBit + 6
	repErrShutdown = repErrBit + 7
	repErrBlockSz  = repErrBit + 8
	repErrTooBig   = repErrBit + 9
)

// NBD_INFO_* of NBD_OPT_GO.
const (
	infoExport    = 0
	infoBlockSize = 3
)

// Section "Transmission flags".
const (
	flagHasFlags        = 1 << 0
	flagReadOnly        = 1 << 1
	flagSendFlush       = 1 << 2
	flagSendWriteZeroes = 1 << 6
	flagCanMultiConn    = 1 << 8
)

// Section "Request types".
const (
	magicRequest   = 0x25609513
	requestHdrSize = 28

	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdWriteZeroes = 6
	cmdBlockStatus = 7
)

// Sections "Simple reply message", "Structured reply chunk message" and "Structured
// reply types".
const (
	magicSimpleReply     = 0x67446698
	magicStructuredReply = 0x668e33ef
	simpleHdrSize        = 16 // magic, error, handle
	structuredHdrSize    = 20 // magic, flags, type, handle, length

	replyFlagDone = 1 << 0

	replyNone        = 0
	replyOffsetData  = 1
	replyOffsetHole  = 2
	replyBlockStatus = 5
	replyErrorBit    = 1 << 15
	replyErrorOffset = replyErrorBit + 2
)

// Section "Metadata contexts"; the dirty bitmap context is QEMU's (docs/interop/nbd.txt).
const (
	contextAllocation  = "base:allocation"
	contextDirtyPrefix = "qemu:dirty-bitmap:"

	stateHole  = 1 << 0 // NBD_STATE_HOLE
	stateZero  = 1 << 1 // NBD_STATE_ZERO
	stateDirty = 1 << 0 // NBD_STATE_DIRTY of qemu:dirty-bitmap
)

// What a server can make us hold or do. None is reached by qemu or nbdkit.
const (
	maxString        = 4096     // section "Conventions": longest string
	maxBitmapName    = 1023     // QEMU's own limit
	maxOptionReply   = 64 << 10 // payload of one option reply
	maxOptionReplies = 4096     // replies to one option
	maxExportSize    = 1 << 56  // bytes

	defaultMaxPayload = 32 << 20 // section "Block size constraints": what any server must take
	maxMinBlock       = 64 << 10 // largest minimal block size a server may announce

	maxErrorChunk   = 64 << 10 // payload of an error chunk
	maxErrorChunks  = 64       // error chunks of one reply
	maxStatusChunk  = 64 << 20 // payload of a block status chunk
	maxDescriptors  = 128 << 10
	maxFragments    = 4096 // disjoint runs of one read reply that arrived out of order
	maxAbandoned    = 4096 // cancelled requests whose answer is still owed
	maxZeroesSpan   = 1 << 30
	blockStatusSpan = 2 << 30 // bytes asked about by one BLOCK_STATUS
)

func commandName(cmd uint16) string {
	switch cmd {
	case cmdRead:
		return "read"
	case cmdWrite:
		return "write"
	case cmdDisc:
		return "disconnect"
	case cmdFlush:
		return "flush"
	case cmdWriteZeroes:
		return "write-zeroes"
	case cmdBlockStatus:
		return "block-status"
	}
	return "unknown"
}
