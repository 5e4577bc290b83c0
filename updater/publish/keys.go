package publish

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/mod/sumdb/note"
)

const (
	algLog     = 1 // Ed25519 (C2SP signed-note)
	algWitness = 4 // Ed25519 cosignature/v1 (C2SP tlog-cosignature)

	maxKeyFile    = 16 << 10 // bytes
	maxWorkFactor = 22

	// WorkFactor is log2 of the work that a guess of a passphrase costs: about a second.
	WorkFactor = 18
	// MinPassphrase is the least length of a passphrase, in bytes.
	MinPassphrase = 10
)

// ErrPassphrase is that a key file does not open with a passphrase.
var ErrPassphrase = errors.New("the passphrase does not open this key")

// nameRE is what a key may be called. The name of a log's key is the log's origin, and both have to fit a signed note's lines.
var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9./_@-]{0,99}$`)

// PublicKey is the part of a key that everybody may know.
type PublicKey struct {
	Name   string
	Public ed25519.PublicKey
}

// publicFile is a PublicKey on disk. All but name and public is there to be copied by people.
type publicFile struct {
	Name    string `json:"name"`
	Type    string `json:"keytype"` // "ed25519"
	Public  string `json:"public"`  // hex
	ID      string `json:"keyid"`
	Log     string `json:"log"`     // verifier key, if it is a log's
	Witness string `json:"witness"` // likewise a witness's
}

// MarshalJSON makes the text of a public key's file.
func (p PublicKey) MarshalJSON() ([]byte, error) {
	return json.Marshal(publicFile{p.Name, metadata.KeyTypeEd25519, hex.EncodeToString(p.Public), p.ID(), p.LogKey(), p.WitnessKey()})
}

// UnmarshalJSON reads it. Only name, keytype and public count.
func (p *PublicKey) UnmarshalJSON(b []byte) error {
	var f publicFile
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	raw, err := hex.DecodeString(f.Public)
	if err != nil || len(raw) != ed25519.PublicKeySize || f.Type != metadata.KeyTypeEd25519 || !nameRE.MatchString(f.Name) {
		return errors.New("not an Ed25519 public key with a name")
	}
	*p = PublicKey{f.Name, raw}
	return nil
}

// ReadPublicKey reads a public key's file.
func ReadPublicKey(path string) (PublicKey, error) {
	var p PublicKey
	b, err := readLimited(path, maxKeyFile)
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key %s: %w", path, err)
	}
	return p, nil
}

// tuf is the key as TUF metadata has it. The name goes along for people.
func (p PublicKey) tuf() *metadata.Key {
	k := plainKey(p.Public)
	k.UnrecognizedFields = map[string]any{nameField: p.Name}
	return k
}

// nameField of a TUF key is what its holder is called.
const nameField = "x-croft-name"

func plainKey(public ed25519.PublicKey) *metadata.Key {
	return &metadata.Key{
		Type: metadata.KeyTypeEd25519, Scheme: metadata.KeySchemeEd25519, Value: metadata.KeyVal{PublicKey: hex.EncodeToString(public)},
	}
}

// ID is the TUF key id.
func (p PublicKey) ID() string {
	id, err := plainKey(p.Public).ID()
	if err != nil {
		panic(err) // strings always have a canonical form
	}
	return id
}

// LogKey is the verifier key of a log (C2SP signed-note).
func (p PublicKey) LogKey() string { return p.verifierKey(algLog) }

// WitnessKey is the verifier key of a witness (C2SP tlog-cosignature).
func (p PublicKey) WitnessKey() string { return p.verifierKey(algWitness) }

func (p PublicKey) verifierKey(alg byte) string {
	return fmt.Sprintf("%s+%08x+%s", p.Name, p.hash(alg), base64.StdEncoding.EncodeToString(append([]byte{alg}, p.Public...)))
}

// hash is the key id of C2SP signed-note.
func (p PublicKey) hash(alg byte) uint32 {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%c", p.Name, alg)
	h.Write(p.Public)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// Key is a key with its secret part. It prints as its name only.
type Key struct {
	PublicKey
	private ed25519.PrivateKey
}

// NewKey makes a key.
func NewKey(name string) (*Key, error) {
	if !nameRE.MatchString(name) {
		return nil, fmt.Errorf("a key's name is 1 to 100 letters, digits and . / _ @ -, not %.120q", name)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return &Key{PublicKey{name, public}, private}, nil
}

// String and GoString keep the secret out of what is printed.
func (k *Key) String() string { return "key " + k.Name }

// GoString is String.
func (k *Key) GoString() string { return k.String() }

// MarshalJSON refuses: Seal is the only way out.
func (k *Key) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a secret key is not written in the clear")
}

// Private is for witnesses, which sign by themselves.
func (k *Key) Private() ed25519.PrivateKey { return k.private }

// note makes the signer of a log.
func (k *Key) note() note.Signer { return noteSigner{k} }

type noteSigner struct{ k *Key }

func (s noteSigner) Name() string                    { return s.k.Name }
func (s noteSigner) KeyHash() uint32                 { return s.k.hash(algLog) }
func (s noteSigner) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.k.private, msg), nil }

// sealed is what is inside of the encryption.
type sealed struct {
	Name string `json:"name"`
	Seed []byte `json:"seed"`
}

// Seal writes the key, encrypted (age, scrypt). work is WorkFactor, or less where it is not meant to be safe.
func (k *Key) Seal(w io.Writer, passphrase string, work int) error {
	if len(passphrase) < MinPassphrase {
		return fmt.Errorf("a passphrase has at least %d characters", MinPassphrase)
	}
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return err
	}
	if work < 1 || work > maxWorkFactor {
		return fmt.Errorf("the work factor is 1 to %d", maxWorkFactor)
	}
	to.SetWorkFactor(work)
	a := armor.NewWriter(w)
	enc, err := age.Encrypt(a, to)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(enc).Encode(sealed{k.Name, k.private.Seed()}); err != nil {
		return err
	}
	if err := enc.Close(); err != nil {
		return err
	}
	return a.Close()
}

// Open reads what Seal wrote. The error wraps ErrPassphrase if that is what is wrong.
func Open(r io.Reader, passphrase string) (*Key, error) {
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, err
	}
	id.SetMaxWorkFactor(maxWorkFactor)
	dec, err := age.Decrypt(armor.NewReader(io.LimitReader(r, maxKeyFile)), id)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, ErrPassphrase
	} else if err != nil {
		return nil, fmt.Errorf("not a key file: %w", err)
	}
	var s sealed
	if err := json.NewDecoder(io.LimitReader(dec, maxKeyFile)).Decode(&s); err != nil || len(s.Seed) != ed25519.SeedSize || !nameRE.MatchString(s.Name) {
		return nil, errors.New("what is in this file is not a key")
	}
	private := ed25519.NewKeyFromSeed(s.Seed)
	return &Key{PublicKey{s.Name, private.Public().(ed25519.PublicKey)}, private}, nil
}

// Create writes a new key to path+".key", which must not exist, and its public part to path+".pub".
func (k *Key) Create(path, passphrase string, work int) error {
	var b bytes.Buffer
	if err := k.Seal(&b, passphrase, work); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".key", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b.Bytes()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	pub, err := json.MarshalIndent(k.PublicKey, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path+".pub", append(pub, '\n'))
}
