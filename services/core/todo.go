package core

import "net/http"

func (s *server) getSetup(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) postClaim(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) putSetupName(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) postSetupAccount(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) putSetupTimeZone(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) postSetupDone(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) postRecover(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) postJoinLook(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) postJoin(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) getMe(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) putMe(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) putPassword(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) postSecondFactor(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) putSecondFactor(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) deleteSecondFactor(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) postRecoveryCodes(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) getMySessions(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) deleteMySessions(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) deleteMySession(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) getTokens(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) postToken(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) deleteToken(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) getPeople(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) getPerson(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) putPerson(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) deletePerson(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) deletePersonSessions(w http.ResponseWriter, _ *http.Request, _ *caller) {
	s.starting(w)
}

func (s *server) getInvites(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) postInvite(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) deleteInvite(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) getAudit(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) getServices(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) postServiceRestart(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) postPower(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) postStartOver(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) getLicences(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }

func (s *server) getLicence(w http.ResponseWriter, _ *http.Request, _ *caller) { s.starting(w) }
